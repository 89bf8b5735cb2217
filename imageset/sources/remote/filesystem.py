"""Paths on fsspec file systems: check, read, download, list and glob."""

from __future__ import annotations

import posixpath
import re
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from imageset.distribution import format_install_command
from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.remote.url import (
    is_document_url,
    is_whole_file_name,
    is_within,
    parse_file_name,
    parse_scheme,
)
from imageset.utils.progress import Progress
from imageset.utils.text import suggest_name
from imageset.utils.transient_errors import call_with_retries
from imageset.utils.url_credentials import Secrets, restore_secrets

READ_TIMEOUT_S = 60.0  # without a byte; then the connection is closed
_EXTRA_BY_SCHEME = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_REDIRECTS, _MAX_REDIRECTS = (301, 302, 303, 307, 308), 10
_LOCAL_SCHEMES = ("file", "sklearn", "torchvision")  # imageset.sources.factory opens them without fsspec


@dataclass(frozen=True)
class RemotePath:
    """A file or folder of a file system.

    Attributes:
        fs: the fsspec file system.
        path: the path in it.
        url: the URL without credentials, for messages.
        secrets: the credentials of the URL.
    """

    fs: Any
    path: str
    url: str
    secrets: Secrets = ()

    @classmethod
    def from_url(cls, url: str, secrets: Secrets) -> RemotePath:
        """Create a path from a URL without credentials, and its credentials.

        Raises:
            UserError: the scheme is unknown, its package is not installed, or the URL holds a password that cannot
                be used.
        """
        import fsspec

        scheme = parse_scheme(url) or ""
        if scheme not in ("http", "https") and urlsplit(url).password:
            raise UserError(
                f"{url}: a password in the URL is not supported; set it in the file system's own "
                "settings (environment, ~/.aws)"
            )
        try:
            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            if scheme in ("http", "https"):
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=READ_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
                options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
            kind = fsspec.get_filesystem_class(scheme)
            # _strip_protocol: private, read in fsspec 2026.9.0; gives the path of a URL without a connection.
            path = restore_secrets(url, secrets) if scheme in ("http", "https") else kind._strip_protocol(url)
            return cls(kind(**options), path, url, secrets)
        except ValueError:
            known = ("s3", "gs", "https", "http", "memory", *_LOCAL_SCHEMES)
            raise UserError(f"{url}: '{scheme}' is not a known scheme; {suggest_name(scheme, known)}") from None
        except ImportError as error:
            if scheme in _EXTRA_BY_SCHEME:
                hint = f"install its file system: {format_install_command(_EXTRA_BY_SCHEME[scheme])}"
            else:
                hint = str(error)
            raise UserError(f"{url}: {hint}") from None

    @property
    def is_http(self) -> bool:
        """Whether the file system is http or https."""
        return "http" in _list_protocols(self.fs)

    @property
    def glob_text(self) -> str:
        """The part of the URL in which braces and glob characters name several files."""
        return urlsplit(self.url).path if self.is_http else self.path

    def with_url(self, url: str) -> RemotePath:
        """Return another path of the same file system by its URL."""
        # _strip_protocol: see from_url.
        path = restore_secrets(url, self.secrets) if self.is_http else self.fs._strip_protocol(url)
        return replace(self, path=path, url=url)

    def check_exists(self) -> None:
        """Check that a file or folder exists; a pattern is not checked.

        Raises:
            UserError: it does not exist, or a folder behind http.
            ConnectionError: the server does not answer.
        """
        if any(sign in self.glob_text for sign in "{*["):
            return
        if self.is_http:
            name = posixpath.basename(urlsplit(self.url).path)
            if not is_whole_file_name(name) and not is_document_url(name):
                raise UserError(explain_no_listing(self.url))
            call_with_retries(self.url, lambda: _read_http(self.fs, self.path, 0), ())
        elif not call_with_retries(self.url, partial(self.fs.exists, self.path), ()):
            raise UserError(f"{self.url}: no such file or folder")

    def read(self, limit: int, num_bytes: int | None = None, within: str | None = None) -> bytes:
        """Read a file; transient errors are retried.

        Args:
            limit: the largest number of bytes.
            num_bytes: size of the file, if it is known.
            within: URL of the folder that no redirect of the server may leave; None: it may lead anywhere.

        Raises:
            Rejected: "bomb", more than `limit` bytes; "unreadable", a redirect that leaves `within`.
            UserError: an error that is not transient.
            ConnectionError: every attempt failed with a transient error.
        """
        data = call_with_retries(self.url, partial(self._read_once, limit, num_bytes, within))
        if len(data) > limit:
            raise Rejected("bomb", f"more than {limit // 1_000_000:,} MB")
        return data

    def _read_once(self, limit: int, num_bytes: int | None, within: str | None) -> bytes:
        if self.is_http:
            return _read_http(self.fs, self.path, limit + 1, within)
        if num_bytes is None:
            num_bytes = self.fs.info(self.path)["size"]
        if num_bytes is not None and num_bytes > limit:
            raise Rejected(
                "bomb", f"a file of {num_bytes / 1e6:,.0f} MB; at most {limit // 1_000_000:,} MB are read"
            )
        data = bytes(self.fs.cat_file(self.path))
        if num_bytes is not None and len(data) != num_bytes:
            raise ConnectionError(f"received {len(data):,} of {num_bytes:,} bytes")
        return data

    def download(self, file: Path, progress: Progress) -> None:
        """Download to a local file, whole or not at all; transient errors are retried.

        Raises:
            UserError: an error that is not transient, or too little free space.
            ConnectionError: every attempt failed with a transient error.
        """

        def download_once() -> None:
            with file.open("wb") as target:
                self._copy_once(target, progress)

        try:
            call_with_retries(self.url, download_once)
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _copy_once(self, target: IO[bytes], progress: Progress) -> None:
        if self.is_http:
            _copy_http(self.fs, self.path, target, progress)
            return
        num_bytes = self.fs.info(self.path)["size"]
        _begin_download(self.url, target, num_bytes, progress)
        with self.fs.open(self.path, "rb", cache_type="readahead", block_size=8 << 20) as source:
            while block := source.read(8 << 20):
                _append_block(target, block, progress)
        if target.tell() != num_bytes:
            raise ConnectionError(f"received {target.tell():,} of {num_bytes:,} bytes")

    def list_files(self) -> dict[str, int | None]:
        """Return the size in bytes, or None, of each file below this folder, by relative path.

        The paths are sorted; hidden files are left out.
        """
        info_by_path = call_with_retries(self.url, partial(self.fs.find, self.path, detail=True))
        root = self.path.rstrip("/") + "/"
        below = {path.removeprefix(root): info for path, info in info_by_path.items() if path.startswith(root)}
        return {name: below[name].get("size") for name in sorted(below) if name and not _is_hidden(name)}

    def glob(self) -> list[RemotePath]:
        """Return the paths that match this pattern, sorted.

        Raises:
            UserError: http has no listing.
        """
        if self.is_http:
            raise UserError(f"{self.url}: {explain_no_listing(self.url)}; braces such as {{000..003}} can be used")
        paths = sorted(call_with_retries(self.url, partial(self.fs.glob, self.path)))
        return [replace(self, path=path, url=str(self.fs.unstrip_protocol(path))) for path in paths]


# ---- http ------------------------------------------------------------------------------------------------------


def _read_http(fs: Any, url: str, limit: int, within: str | None = None) -> bytes:
    """Return at most `limit` bytes of a response's body; see RemotePath.read."""
    from fsspec.asyn import sync

    async def read() -> bytes:
        blocks: list[bytes] = []
        num = 0
        async with await _request(fs, url, within) as response:
            while num < limit and (block := await response.content.read(min(1 << 20, limit - num))):
                blocks.append(block)
                num += len(block)
        return b"".join(blocks)

    return bytes(sync(fs.loop, read))


def _copy_http(fs: Any, url: str, target: IO[bytes], progress: Progress) -> None:
    """Copy a whole body to a file.

    Raises:
        ConnectionError: the body is shorter than announced.
    """
    from fsspec.asyn import sync

    async def copy() -> None:
        async with await _request(fs, url) as response:
            announced = int(response.headers.get("Content-Length", -1))
            _begin_download(url, target, announced if announced >= 0 else None, progress)
            while block := await response.content.read(1 << 20):
                _append_block(target, block, progress)
        if announced >= 0 and target.tell() != announced:
            raise ConnectionError(f"received {target.tell():,} of {announced:,} bytes")

    sync(fs.loop, copy)


async def _request(fs: Any, url: str, within: str | None = None) -> Any:
    """Return the response to a GET request; aiohttp raises its own error for an error status."""
    from aiohttp import BasicAuth

    session, address = await fs.set_session(), _to_yarl_url(url)
    # identity: the Content-Length of a compressed body is not the size of the file
    options: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}, "allow_redirects": within is None}
    if within is not None and address.user:  # of each request, since a redirect does not repeat the login
        options["auth"] = BasicAuth(address.user, address.password or "")
        address = address.with_user(None)
    response = await session.get(address, **options)
    for _ in range(_MAX_REDIRECTS):
        if within is None or response.status not in _REDIRECTS or "Location" not in response.headers:
            break
        address = response.url.join(_to_yarl_url(response.headers["Location"]))
        response.release()
        if not is_within(str(address), within):
            raise Rejected("unreadable", "the server sends it from outside the table's folder, where none is read")
        response = await session.get(address, **options)
    if within is not None and response.status in _REDIRECTS:
        response.release()
        raise Rejected("unreadable", "the server redirects it again and again")
    if response.status >= 400:
        response.release()
        response.raise_for_status()
    return response


def _to_yarl_url(url: str) -> Any:
    """Return a yarl URL, which stays unchanged if it is valid by RFC 3986 and is quoted if not.

    A signature may cover every character of a URL.
    """
    from yarl import URL

    return URL(
        url, encoded=re.fullmatch(r"([\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", url, re.ASCII) is not None
    )


def explain_no_listing(url: str) -> str:
    """Return the message for a folder behind http."""
    return (
        f"{url}: a folder behind http cannot be listed; give the address of an archive, a table, annotations, a "
        "Parquet or an IDX file"
    )


def _begin_download(url: str, target: IO[bytes], num_bytes: int | None, progress: Progress) -> None:
    free = shutil.disk_usage(Path(target.name).parent).free
    if num_bytes is not None and num_bytes > free:
        raise UserError(
            f"{url}: {num_bytes / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free in {Path(target.name).parent}; "
            "set TMPDIR to a folder on a larger disk"
        )
    step = f"downloading {parse_file_name(url)}"
    progress.begin(total=None if num_bytes is None else num_bytes // 1_000_000, step=step, unit="MB")


def _append_block(target: IO[bytes], block: bytes, progress: Progress) -> None:
    before = target.tell()
    target.write(block)
    progress.advance((before + len(block)) // 1_000_000 - before // 1_000_000)


def _list_protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _is_hidden(name: str) -> bool:
    return name.endswith("/") or any(part.startswith(".") for part in name.split("/"))
