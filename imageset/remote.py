"""Sources behind a URL: s3://, gs://, https://, memory:// and whatever else fsspec has a file system for.

Archives, tables, IDX and CIFAR files are fetched to a temporary folder (TMPDIR says where) that goes with the
source, or, where the process is killed, with the next fetch or check; pictures in a bucket's folders, and those
that a table names below itself, are read one by one, some ahead. What may pass by itself (a dropped connection, a
body cut short, 429, 500 to 504) is tried again after RETRY_PAUSES_S, and is a ConnectionError if it does not pass;
anything else is a UserError at once. Credentials in a URL are used and never shown (imageset.credentials).
"""

from __future__ import annotations

import errno
import posixpath
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from imageset.credentials import Taken, mask, put_back, scrubbed, taken_out
from imageset.errors import UserError
from imageset.layouts import MAX_NOTE_BYTES, NOTE_FOLDERS, NOTES
from imageset.params import nearest
from imageset.progress import Progress, Silent
from imageset.quality import Rejected
from imageset.scratch import Scratch
from imageset.sources import (
    MAX_PICTURE_BYTES,
    PICTURE_ENDINGS,
    FolderSource,
    Source,
    SourcePicture,
    open_path,
    slug,
)
from imageset.words import count

T = TypeVar("T")

RETRY_PAUSES_S: tuple[float, ...] = (0.5, 2.0, 8.0)  # between the attempts at one read
TIMEOUT_S = 60.0  # without a byte: the connection is given up
NUM_AHEAD, NUM_THREADS = 32, 8
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_OURS = ("file", "sklearn", "torchvision")  # imageset.sources opens them itself

# A disk, a share or a network that stumbles; a missing file or a full disk is not mended by waiting.
PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.ENETDOWN,
    errno.ENETRESET, errno.ENETUNREACH, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PASSING_NAMES = {  # of aiohttp's and botocore's errors, which are no OSErrors
    "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError", "ConnectionClosedError",
    "ConnectTimeoutError", "EndpointConnectionError", "IncompleteReadError", "ReadTimeoutError",
    "ResponseStreamingError", "HTTPClientError",
}  # fmt: skip
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "DefaultCredentialsError",
    "RefreshError", "UnauthorizedSSOTokenError", "ProfileNotFound",
}  # fmt: skip


def is_remote(spec: str) -> bool:
    """Whether this is a URL, or a public set's name, that may have to be fetched."""
    scheme = _scheme(spec)
    return scheme is not None and scheme not in ("file", "sklearn")


def may_pass(error: object) -> bool:
    """Whether an error is the world's and may be gone a little later."""
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS
    if _is_distrusted(error):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if {kind.__name__ for kind in type(error).__mro__} & _PASSING_NAMES:
        return True
    return isinstance(error, OSError) and error.errno in PASSING


def check_remote(spec: str) -> None:
    """Raise UserError for a URL that is plainly wrong, without fetching what it leads to.

    What may pass by itself is left for the attempt that counts.
    """
    if _scheme(spec) == "torchvision":
        from imageset.public import check_public

        check_public(spec)
        return
    spec = mask(spec)
    try:
        _Place.of(_without_roles(spec)[0], taken_out(spec)).check()
    except ConnectionError:
        return


def open_remote(spec: str, *, to_learn: bool = True, progress: Progress | None = None) -> Source:
    """Understand what lies behind a URL.

    Raises:
        UserError: no such place, no permission, no credentials, a file system that is not installed, or nothing
            that can be learned from.
        ConnectionError: the attempts at a read were used up.
    """
    from imageset.several import expand_braces, is_pattern

    spec = mask(spec)
    url, said = _without_roles(spec)
    place, progress = _Place.of(url, taken_out(spec)), progress or Silent()
    name = _file_name(place.pattern)
    if is_pattern(place.pattern):
        places = place.glob() if any(sign in place.pattern for sign in "*[") else [place]
        places = [one.beside(each) for one in places for each in expand_braces(one.url)]
        return _fetched(places, url, said, to_learn, progress)
    if _is_file_name(name):
        return _fetched([place], url, said, to_learn, progress)
    return _open_folder(place, url, to_learn, progress)


# ---- one place behind a URL ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A file or folder of one file system, and what it is called in messages."""

    fs: Any
    path: str
    url: str  # without credentials
    taken: Taken = ()  # these

    @classmethod
    def of(cls, url: str, taken: Taken) -> _Place:
        """Raises UserError for a scheme that there is none for, or whose package is not installed."""
        import fsspec

        scheme = _scheme(url) or ""
        if scheme not in ("http", "https") and urlsplit(url).password:
            raise UserError(
                f"{url}: no password can be given here; give it as the file system's own settings do "
                "(environment, ~/.aws)"
            )
        try:
            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            if scheme in ("http", "https"):
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
                options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
            kind = fsspec.get_filesystem_class(scheme)
            path = put_back(url, taken) if scheme in ("http", "https") else kind._strip_protocol(url)
            return cls(kind(**options), path, url, taken)
        except ValueError:
            known = ("s3", "gs", "https", "http", "memory", *_OURS)
            raise UserError(f"{url}: '{scheme}' is no place that is known; {nearest(scheme, known)}") from None
        except ImportError as error:
            if scheme in _EXTRAS:
                text = f"install what reads it with `pip install 'convoy[{_EXTRAS[scheme]}]'`"
            else:
                text = str(error)
            raise UserError(f"{url}: {text}") from None

    @property
    def is_http(self) -> bool:
        return "http" in _protocols(self.fs)

    @property
    def pattern(self) -> str:
        """Where signs that name several files count."""
        return urlsplit(self.url).path if self.is_http else self.path

    def beside(self, url: str) -> _Place:
        """Another place of the same file system."""
        path = put_back(url, self.taken) if self.is_http else self.fs._strip_protocol(url)
        return replace(self, path=path, url=url)

    def check(self) -> None:
        """Raise UserError where nothing is here."""
        if any(sign in self.pattern for sign in "{*["):
            return
        if self.is_http:
            if not _is_file_name(posixpath.basename(urlsplit(self.url).path)):
                raise UserError(_no_listing(self.url))
            attempts(self.url, lambda: _http_read(self.fs, self.path, 0), ())
        elif not attempts(self.url, partial(self.fs.exists, self.path), ()):
            raise UserError(f"{self.url}: no such file or folder")

    def read(self, limit: int, num_bytes: int | None = None) -> bytes:
        """The bytes, tried again where that may help; `num_bytes` where it is known.

        Raises:
            Rejected: "bomb", more than `limit` bytes.
            UserError, ConnectionError: see the top of the file.
        """
        data = attempts(self.url, partial(self._read_once, limit, num_bytes))
        if len(data) > limit:
            raise Rejected("bomb", f"more than {limit // 1_000_000:,} MB")
        return data

    def _read_once(self, limit: int, num_bytes: int | None) -> bytes:
        if self.is_http:
            return _http_read(self.fs, self.path, limit + 1)
        if num_bytes is None:
            num_bytes = self.fs.info(self.path)["size"]
        if num_bytes is not None and num_bytes > limit:
            raise Rejected("bomb", f"a file of {num_bytes / 1e6:,.0f} MB; at most {limit // 1_000_000:,} are read")
        data = bytes(self.fs.cat_file(self.path))
        if num_bytes is not None and len(data) != num_bytes:
            raise ConnectionError(f"{len(data):,} bytes of {num_bytes:,} came")
        return data

    def fetch(self, file: Path, progress: Progress) -> None:
        """Copy it to a file of this machine, whole or not at all."""

        def once() -> None:
            with file.open("wb") as target:
                self._copy_once(target, progress)

        try:
            attempts(self.url, once)
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _copy_once(self, target: IO[bytes], progress: Progress) -> None:
        if self.is_http:
            _http_copy(self.fs, self.path, target, progress)
            return
        num_bytes = self.fs.info(self.path)["size"]
        _begin(self.url, target, num_bytes, progress)
        with self.fs.open(self.path, "rb", cache_type="readahead", block_size=8 << 20) as source:
            while block := source.read(8 << 20):
                _append(target, block, progress)
        if target.tell() != num_bytes:
            raise ConnectionError(f"{target.tell():,} bytes of {num_bytes:,} came")

    def files(self) -> dict[str, int | None]:
        """{path relative to here: number of bytes} of every file below, hidden ones left out, sorted."""
        found = attempts(self.url, partial(self.fs.find, self.path, detail=True))
        root = self.path.rstrip("/") + "/"
        below = {path.removeprefix(root): info for path, info in found.items() if path.startswith(root)}
        return {name: below[name].get("size") for name in sorted(below) if name and not _is_hidden(name)}

    def glob(self) -> list[_Place]:
        """The places that a pattern names."""
        if self.is_http:
            raise UserError(f"{self.url}: {_no_listing(self.url)}; braces such as {{000..003}} can be used")
        found = sorted(attempts(self.url, partial(self.fs.glob, self.path)))
        return [replace(self, path=path, url=str(self.fs.unstrip_protocol(path))) for path in found]


class Missing(UserError):
    """There is no such file."""


def attempts(url: str, action: Callable[[], T], pauses_s: Sequence[float] | None = None) -> T:
    """Do it, and do it again after each pause (RETRY_PAUSES_S) while it fails in a way that may pass.

    Raises:
        UserError: it failed for good, in words for a person.
        ConnectionError: it never went well.
    """
    pauses_s = RETRY_PAUSES_S if pauses_s is None else pauses_s
    for pause in (*pauses_s, None):
        try:
            return action()
        except (Rejected, UserError):
            raise
        except Exception as error:
            error = _underlying(error)
            if not may_pass(error):
                kind = Missing if _is_missing(error) else UserError
                raise kind(f"{url}: {_explained(error)}") from None
            if pause is None:
                raise ConnectionError(
                    f"{url}: {_said(error)}, after {len(pauses_s) + 1} attempts; try again later"
                ) from None
            time.sleep(pause)
    raise AssertionError("not reached")


def _underlying(error: Exception) -> Exception:
    """fsspec's http says "not found" whatever went wrong with a HEAD request; the cause tells what it was."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _status(error: object) -> int | None:
    """The HTTP status in an error of aiohttp, botocore or gcsfs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if str(status).isdigit() else None


def _is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _status(error) in (404, 410)


def _is_distrusted(error: object) -> bool:
    """Whether the server could not prove to be who it should be."""
    return type(error).__name__ in ("ClientConnectorCertificateError", "SSLError", "SSLCertVerificationError")


def _explained(error: Exception) -> str:
    status, name = _status(error), type(error).__name__
    if _is_distrusted(error):
        why = getattr(getattr(error, "certificate_error", error), "verify_message", "") or _said(error)
        return f"the server's certificate is not trusted ({why}); if it is your own, let SSL_CERT_FILE name it"
    if name in _NO_CREDENTIALS:
        return "no credentials were found; give them as the file system's own settings do (environment, ~/.aws)"
    if _is_missing(error):
        return "no such file or folder"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access is denied; check the address and the credentials"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left to fetch it; set TMPDIR to a folder that has some"
    return _said(error)


def _said(error: Exception) -> str:
    status = _status(error)
    text = f"the server answers {status}" if status else scrubbed(" ".join(str(error).split()))
    return text or type(error).__name__


# ---- http ------------------------------------------------------------------------------------------------------


def _http_read(fs: Any, url: str, limit: int) -> bytes:
    """At most `limit` bytes of a body."""
    from fsspec.asyn import sync

    async def read() -> bytes:
        parts: list[bytes] = []
        num = 0
        async with await _response(fs, url) as response:
            while num < limit and (block := await response.content.read(min(1 << 20, limit - num))):
                parts.append(block)
                num += len(block)
        return b"".join(parts)

    return bytes(sync(fs.loop, read))


def _http_copy(fs: Any, url: str, target: IO[bytes], progress: Progress) -> None:
    """A whole body into a file; ConnectionError where fewer bytes come than were announced."""
    from fsspec.asyn import sync

    async def copy() -> None:
        async with await _response(fs, url) as response:
            announced = int(response.headers.get("Content-Length", -1))
            _begin(url, target, announced if announced >= 0 else None, progress)
            while block := await response.content.read(1 << 20):
                _append(target, block, progress)
        if announced >= 0 and target.tell() != announced:
            raise ConnectionError(f"{target.tell():,} bytes of {announced:,} came")

    sync(fs.loop, copy)


async def _response(fs: Any, url: str) -> Any:
    """The answer to a GET; errors by status are aiohttp's own."""
    session = await fs.set_session()
    # identity: with a compressed body Content-Length says nothing about the file
    response = await session.get(_address(url), headers={"Accept-Encoding": "identity"})
    if response.status >= 400:
        response.release()
        response.raise_for_status()
    return response


def _address(url: str) -> Any:
    """The URL as it is where it is one by RFC 3986, since a signature may be over every letter; else made one."""
    from yarl import URL

    return URL(
        url, encoded=re.fullmatch(r"([\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", url, re.ASCII) is not None
    )


def _no_listing(url: str) -> str:
    return (
        f"{url}: a folder behind http cannot be listed; give the address of an archive, a table, a Parquet or an "
        "IDX file"
    )


# ---- files that are fetched ------------------------------------------------------------------------------------


class FetchedSource:
    """A source over files that were fetched to a temporary folder, which goes when the source does."""

    def __init__(self, inner: Source, folder: Scratch, parent: str, name: str) -> None:
        self._inner, self._folder, self._parent = inner, folder, parent
        self.name, self.kind, self.multi_label = name, inner.kind, inner.multi_label
        self.passed_over, self.classes, self.splits = inner.passed_over, inner.classes, inner.splits
        self.problem = inner.problem and self._shown(inner.problem)

    def __iter__(self) -> Iterator[SourcePicture]:
        try:
            yield from self._inner
        except UserError as error:
            raise UserError(self._shown(str(error))) from None

    def __len__(self) -> int:
        return len(self._inner)

    def describe(self) -> str:
        return self._shown(self._inner.describe())

    def _shown(self, text: str) -> str:
        return text.replace(self._folder.name, self._parent)


class RemoteTable(FetchedSource):
    """A fetched table whose pictures lie beside it, behind the URL; some are read ahead."""

    def __iter__(self) -> Iterator[SourcePicture]:
        return read_ahead(super().__iter__())


def _fetched(places: Sequence[_Place], shown: str, said: str, to_learn: bool, progress: Progress) -> FetchedSource:
    """Fetch files and open them where they lie then."""
    if not places:
        raise UserError(f"{shown}: no such file")
    places = [*places, *_labels_of_idx(places)]
    parent = posixpath.commonpath([_parent(place.url) for place in places]).replace(":/", "://", 1)
    names = [place.url.partition("?")[0].removeprefix(f"{parent}/") for place in places]
    folder = Scratch()
    root = Path(folder.name)
    try:
        for place, name in zip(places, names, strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            place.fetch(root / name, progress)
        progress.end()
        return _open_fetched(folder, names, places[0], parent, shown, said, to_learn)
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(folder.name, parent)) from None
    except BaseException:
        folder.cleanup()
        raise


def _open_fetched(
    folder: Scratch,
    names: Sequence[str],
    place: _Place,
    parent: str,
    shown: str,
    said: str,
    to_learn: bool,
) -> FetchedSource:
    from imageset.several import open_files
    from imageset.tables import ENDINGS as TABLES
    from imageset.tables import TableSource

    root = Path(folder.name)
    stem = re.sub(r"\{[^}]*\}|\[[^]]*\]|\*", "", _file_name(shown)).split(".")[0]
    name = slug(stem or posixpath.basename(parent))
    if all(one.lower().endswith(TABLES) for one in names):
        below = partial(_read_below, place, parent)
        files = [root / one for one in names]
        table = TableSource(files, shown=shown, name=name, said=said, to_learn=to_learn, below=below)
        return RemoteTable(table, folder, parent, name)
    if len(names) == 1:
        return FetchedSource(open_path(root / names[0], to_learn=to_learn), folder, parent, name)
    if all(_is_idx_name(one) for one in names):
        return FetchedSource(open_path(root, to_learn=to_learn), folder, parent, slug(posixpath.basename(parent)))
    inner = open_files([(one, root / one) for one in names], shown, name, said, to_learn=to_learn)
    return FetchedSource(inner, folder, parent, name)


def _labels_of_idx(places: Sequence[_Place]) -> list[_Place]:
    """The files of labels that belong to IDX files of pictures, as they are called (imageset.idx)."""
    from imageset.idx import labels_name, names_pictures

    named = {_file_name(place.url) for place in places}
    wanted = [(place, labels_name(name)) for place in places if names_pictures(name := _file_name(place.url))]
    return [place.beside(f"{_parent(place.url)}/{name}") for place, name in wanted if name not in named]


def _read_below(place: _Place, parent: str, name: str) -> bytes:
    """Read a picture that a table behind a URL names: below the table, whoever wrote it."""
    name = name.removeprefix(f"{parent}/")
    if "://" in name or name.startswith("/") or ".." in name.split("/"):
        raise Rejected("unreadable", "lies outside the table's folder")
    try:
        return place.beside(f"{parent}/{name}").read(MAX_PICTURE_BYTES)
    except UserError as error:
        raise Rejected("unreadable", str(error).removeprefix(f"{parent}/{name}: ")) from None


def _begin(url: str, target: IO[bytes], num_bytes: int | None, progress: Progress) -> None:
    free = shutil.disk_usage(Path(target.name).parent).free
    if num_bytes is not None and num_bytes > free:
        raise UserError(
            f"{url}: {num_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free in {Path(target.name).parent}; "
            "set TMPDIR to a folder with more"
        )
    step = f"fetching {_file_name(url)}"
    progress.begin(total=None if num_bytes is None else num_bytes // 1_000_000, step=step, unit="MB")


def _append(target: IO[bytes], block: bytes, progress: Progress) -> None:
    before = target.tell()
    target.write(block)
    progress.advance((before + len(block)) // 1_000_000 - before // 1_000_000)


# ---- folders of a bucket ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A picture in a bucket."""

    uri: str
    place: _Place
    num_bytes: int | None

    def read(self) -> bytes:
        """The bytes; FileNotFoundError where it has gone since the listing."""
        try:
            return self.place.read(MAX_PICTURE_BYTES, self.num_bytes)
        except Missing as error:
            raise FileNotFoundError(str(error)) from None


class RemoteFolder(FolderSource):
    """A folder of a bucket; some pictures are read ahead."""

    def __iter__(self) -> Iterator[SourcePicture]:
        return read_ahead(super().__iter__())


def _open_folder(place: _Place, url: str, to_learn: bool, progress: Progress) -> Source:
    if place.is_http:
        raise UserError(_no_listing(url))
    url = url.rstrip("/")
    listed = place.files()
    if not listed:
        raise UserError(f"{url}: holds no files; check the address")
    pictures = [name for name in listed if posixpath.splitext(name)[1].lower() in PICTURE_ENDINGS]
    if not pictures:
        return _open_listed_files(place, url, listed, to_learn, progress)
    files = [RemoteFile(name, place.beside(f"{url}/{name}"), listed[name]) for name in pictures]
    passed_over = Counter({"files of other kinds": len(listed) - len(files)} if len(listed) > len(files) else {})
    name = slug(posixpath.basename(url))
    return RemoteFolder(url, name, files, passed_over, _notes(place, url, listed), to_learn=to_learn)


def _open_listed_files(
    place: _Place, url: str, listed: Mapping[str, int | None], to_learn: bool, progress: Progress
) -> Source:
    """Shards, Parquet, IDX or CIFAR files of a bucket: fetched, in folders as they lie there."""
    wanted = [name for name in listed if _is_file_name(name) or _may_be_cifar(name)]
    if not wanted:
        raise UserError(f"{url}: holds {count(len(listed), 'file')} and no pictures; check the address")
    folder = Scratch()
    root = Path(folder.name) / (posixpath.basename(url) or "bucket")
    try:
        for name in wanted:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            place.beside(f"{url}/{name}").fetch(file, progress)
        progress.end()
        return FetchedSource(open_path(root, to_learn=to_learn), folder, _parent(url), slug(root.name))
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(folder.name, _parent(url))) from None
    except BaseException:
        folder.cleanup()
        raise


def _notes(place: _Place, url: str, listed: Mapping[str, int | None]) -> dict[str, bytes]:
    """The small text files that tell a layout."""
    found = {note: folder + note for note in NOTES for folder in reversed(NOTE_FOLDERS) if folder + note in listed}
    return {note: place.beside(f"{url}/{name}").read(MAX_NOTE_BYTES, listed[name]) for note, name in found.items()}


def read_ahead(pictures: Iterator[SourcePicture]) -> Iterator[SourcePicture]:
    """The same pictures in the same order, the next NUM_AHEAD of them being read already."""
    pool = ThreadPoolExecutor(NUM_THREADS, "read-ahead")
    waiting: deque[tuple[SourcePicture, Future[bytes]]] = deque()
    try:
        for picture in pictures:
            waiting.append((picture, pool.submit(picture.read)))
            if len(waiting) > NUM_AHEAD:
                first, data = waiting.popleft()
                yield replace(first, read=data.result)
        while waiting:
            first, data = waiting.popleft()
            yield replace(first, read=data.result)
    except BaseException:  # nobody reads on
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=False)


# ---- names -----------------------------------------------------------------------------------------------------


def _scheme(spec: str) -> str | None:
    found = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*)://", spec)
    return found[1].lower() if found else None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _without_roles(spec: str) -> tuple[str, str]:
    """Take what is said about a table's columns off a URL: (URL, query of roles); other queries stay."""
    from imageset.columns import SAYABLE
    from imageset.tables import ENDINGS as TABLES

    parts = urlsplit(spec)
    path = parts.path or parts.netloc
    if not parts.query or not path.lower().endswith(TABLES):
        return spec, ""
    pieces = parts.query.split("&")  # as they are: a signature may be over every letter
    ours = [piece for piece in pieces if unquote_plus(piece.partition("=")[0]) in SAYABLE]
    if not ours and _scheme(spec) not in ("http", "https"):
        return urlunsplit(parts._replace(query="")), parts.query  # nobody else's: a wrong role is to be named
    theirs = [piece for piece in pieces if piece not in ours]
    return urlunsplit(parts._replace(query="&".join(theirs))), "&".join(ours)


def _file_name(url: str) -> str:
    return posixpath.basename(url.partition("?")[0].rstrip("/"))


def _parent(url: str) -> str:
    return url.partition("?")[0].rstrip("/").rpartition("/")[0]


def _is_file_name(name: str) -> bool:
    """Whether a name is that of a file that is fetched as a whole."""
    from imageset.archives import ENDINGS as ARCHIVES
    from imageset.tables import ENDINGS as TABLES

    return name.partition("?")[0].lower().endswith((*ARCHIVES, *TABLES)) or _is_idx_name(name)


def _is_idx_name(name: str) -> bool:
    from imageset.idx import names_labels, names_pictures

    name = _file_name(name)
    return names_pictures(name) or names_labels(name)


def _may_be_cifar(name: str) -> bool:
    from imageset.cifar import names_cifar

    return names_cifar(posixpath.basename(name))


def _is_hidden(name: str) -> bool:
    return name.endswith("/") or any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
