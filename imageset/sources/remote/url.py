"""URLs of sources: their schemes, file names, and roles of columns."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, unquote_plus, urlsplit, urlunsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SAFER_SERVERS = [("https", 443), ("http", 80)]  # a server sends readers from the second to the first


def is_remote(spec: str) -> bool:
    """Return whether a source is a URL, or the name of a public set, that may have to be downloaded."""
    scheme = parse_scheme(spec)
    return scheme is not None and scheme not in ("file", "sklearn")


def parse_scheme(spec: str) -> str | None:
    """Return the scheme of a URL in lower case, or None if the text is not a URL."""
    match = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*)://", spec)
    return match[1].lower() if match else None


def split_off_roles(spec: str) -> tuple[str, str]:
    """Return (URL without a source's own parameters, query of them); other query parameters stay.

    They are the roles of a table's columns, or the options of a folder or an archive.
    """
    from imageset.sources.columns import QUERY_KEYS
    from imageset.sources.layouts.options import OPTION_KEYS
    from imageset.sources.table import TABLE_EXTENSIONS

    parts = urlsplit(spec)
    path = parts.path or parts.netloc
    if not parts.query:
        return spec, ""
    known = QUERY_KEYS if path.lower().endswith(TABLE_EXTENSIONS) or is_document_url(path) else OPTION_KEYS
    pieces = parts.query.split("&")  # kept as they are: a signature may cover every character
    roles = [piece for piece in pieces if unquote_plus(piece.partition("=")[0]) in known]
    if not roles and parse_scheme(spec) not in ("http", "https"):
        # No server reads the query, so an unknown parameter must be reported.
        return urlunsplit(parts._replace(query="")), parts.query
    others = [piece for piece in pieces if piece not in roles]
    return urlunsplit(parts._replace(query="&".join(others))), "&".join(roles)


def parse_file_name(url: str) -> str:
    """Return the last part of a URL's path."""
    return posixpath.basename(url.partition("?")[0].rstrip("/"))


def parse_parent(url: str) -> str:
    """Return a URL without its query and the last part of its path."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[0]


def is_below(name: str) -> bool:
    """Return whether a path, however it is written, stays below the folder that it is relative to."""
    text = decode_path(name)
    if "://" in text or text[:1] == "/" or any(character < " " for character in text):
        return False  # some programs drop tabs and line breaks in a URL
    return ".." not in text.split("/")


def decode_path(path: str) -> str:
    """Return a path as the most generous server reads it: percent signs decoded, backslashes as slashes."""
    while (decoded := unquote(path).replace("\\", "/")) != path:
        path = decoded
    return path


def is_within(url: str, folder: str) -> bool:
    """Return whether a URL is on the server and below the folder of another one."""
    parts, top = urlsplit(url), urlsplit(folder)
    servers = [(split.scheme, split.port or _DEFAULT_PORTS.get(split.scheme)) for split in (parts, top)]
    if parts.hostname != top.hostname or (servers[0] != servers[1] and servers != _SAFER_SERVERS):
        return False
    path, start = (decode_path(split.path) for split in (parts, top))
    return path.startswith(f"{start.rstrip('/')}/") and ".." not in path.split("/")


def is_whole_file_name(name: str) -> bool:
    """Return whether a name is that of an archive, a table or an IDX file, which are downloaded whole."""
    from imageset.sources.archive import ARCHIVE_EXTENSIONS
    from imageset.sources.table import TABLE_EXTENSIONS

    return name.partition("?")[0].lower().endswith((*ARCHIVE_EXTENSIONS, *TABLE_EXTENSIONS)) or is_idx_name(name)


def is_document_url(name: str) -> bool:
    """Return whether a name is that of a document of annotations."""
    from imageset.sources.annotations.reader import is_document_name

    return is_document_name(name.partition("?")[0])


def is_idx_name(name: str) -> bool:
    """Return whether a name is that of an IDX file of images or labels."""
    from imageset.sources.benchmark_sets.idx import is_idx_image_name, is_idx_label_name

    name = parse_file_name(name)
    return is_idx_image_name(name) or is_idx_label_name(name)
