"""Decide which errors are transient, and retry after pauses."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.utils.url_credentials import redact

T = TypeVar("T")

RETRY_PAUSES_S: tuple[float, ...] = (0.5, 2.0, 8.0)  # between the attempts at one read

# Failures of a disk, a share or a network that may end; waiting does not help with a missing file or a full disk.
TRANSIENT_ERRNOS = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.ENETDOWN,
    errno.ENETRESET, errno.ENETUNREACH, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_TRANSIENT_NAMES = {  # errors of aiohttp and botocore that are not OSErrors
    "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError", "ConnectionClosedError",
    "ConnectTimeoutError", "EndpointConnectionError", "IncompleteReadError", "ReadTimeoutError",
    "ResponseStreamingError", "HTTPClientError",
}  # fmt: skip
_CREDENTIAL_ERRORS = {
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "DefaultCredentialsError",
    "RefreshError", "UnauthorizedSSOTokenError", "ProfileNotFound",
}  # fmt: skip


def is_transient(error: object) -> bool:
    """Return whether an error may disappear if the operation is tried again later."""
    status = _read_http_status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    if _is_untrusted(error):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if {kind.__name__ for kind in type(error).__mro__} & _TRANSIENT_NAMES:
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


class MissingFile(UserError):
    """The file or folder does not exist."""


def call_with_retries(url: str, function: Callable[[], T], pauses_s: Sequence[float] | None = None) -> T:
    """Call a function, and call it again after each pause while it fails with a transient error.

    Args:
        url: begins the messages of errors; without credentials.
        function: called without arguments.
        pauses_s: seconds before each further attempt; None: RETRY_PAUSES_S.

    Returns:
        The result of `function`.

    Raises:
        UserError: an error that is not transient; MissingFile if the file does not exist.
        ConnectionError: every attempt failed with a transient error.
    """
    pauses_s = RETRY_PAUSES_S if pauses_s is None else pauses_s
    for pause in (*pauses_s, None):
        try:
            return function()
        except (Rejected, UserError):
            raise
        except Exception as error:
            error = _unwrap_error(error)
            if not is_transient(error):
                kind = MissingFile if _is_missing(error) else UserError
                raise kind(f"{url}: {_explain_error(error)}") from None
            if pause is None:
                raise ConnectionError(
                    f"{url}: {_describe_error(error)}, after {len(pauses_s) + 1} attempts; try again later"
                ) from None
            time.sleep(pause)
    raise AssertionError("not reached")


def _unwrap_error(error: Exception) -> Exception:
    """Return the cause of a "not found" error: fsspec's http raises it whatever went wrong with a HEAD request."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _read_http_status(error: object) -> int | None:
    """Return the HTTP status in an error of aiohttp, botocore or gcsfs, or None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if str(status).isdigit() else None


def _is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _read_http_status(error) in (404, 410)


def _is_untrusted(error: object) -> bool:
    """Return whether the server's certificate could not be verified."""
    return type(error).__name__ in ("ClientConnectorCertificateError", "SSLError", "SSLCertVerificationError")


def _explain_error(error: Exception) -> str:
    status, name = _read_http_status(error), type(error).__name__
    if _is_untrusted(error):
        reason = getattr(getattr(error, "certificate_error", error), "verify_message", "") or _describe_error(
            error
        )
        return (
            f"the server's certificate is not trusted ({reason}); if it is your own, set SSL_CERT_FILE to its path"
        )
    if name in _CREDENTIAL_ERRORS:
        return "no credentials were found; set them in the file system's own settings (environment, ~/.aws)"
    if _is_missing(error):
        return "no such file or folder"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access is denied; check the address and the credentials"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left to download it; set TMPDIR to a folder on a disk with free space"
    return _describe_error(error)


def _describe_error(error: Exception) -> str:
    status = _read_http_status(error)
    text = f"the server answered with status {status}" if status else redact(" ".join(str(error).split()))
    return text or type(error).__name__
