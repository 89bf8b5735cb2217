"""Schemes, file names and roles in a URL; is_remote."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote_plus, urlsplit, urlunsplit


def is_remote(spec: str) -> bool:
    """Whether this is a URL, or a public set's name, that may have to be fetched."""
    scheme = parse_scheme(spec)
    return scheme is not None and scheme not in ("file", "sklearn")


# ---- names -----------------------------------------------------------------------------------------------------


def parse_scheme(spec: str) -> str | None:
    found = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*)://", spec)
    return found[1].lower() if found else None


def split_off_roles(spec: str) -> tuple[str, str]:
    """Take what is said about a table's columns off a URL: (URL, query of roles); other queries stay."""
    from imageset.sources.columns import QUERY_KEYS
    from imageset.sources.table import TABLE_EXTENSIONS as TABLES

    parts = urlsplit(spec)
    path = parts.path or parts.netloc
    if not parts.query or not path.lower().endswith(TABLES):
        return spec, ""
    pieces = parts.query.split("&")  # as they are: a signature may be over every letter
    ours = [piece for piece in pieces if unquote_plus(piece.partition("=")[0]) in QUERY_KEYS]
    if not ours and parse_scheme(spec) not in ("http", "https"):
        return urlunsplit(parts._replace(query="")), parts.query  # nobody else's: a wrong role is to be named
    theirs = [piece for piece in pieces if piece not in ours]
    return urlunsplit(parts._replace(query="&".join(theirs))), "&".join(ours)


def parse_file_name(url: str) -> str:
    return posixpath.basename(url.partition("?")[0].rstrip("/"))


def parse_parent(url: str) -> str:
    return url.partition("?")[0].rstrip("/").rpartition("/")[0]


def is_whole_file_name(name: str) -> bool:
    """Whether a name is that of a file that is fetched as a whole."""
    from imageset.sources.archive import ARCHIVE_EXTENSIONS as ARCHIVES
    from imageset.sources.table import TABLE_EXTENSIONS as TABLES

    return name.partition("?")[0].lower().endswith((*ARCHIVES, *TABLES)) or is_idx_name(name)


def is_idx_name(name: str) -> bool:
    from imageset.sources.benchmark_sets.idx import is_idx_image_name, is_idx_label_name

    name = parse_file_name(name)
    return is_idx_image_name(name) or is_idx_label_name(name)
