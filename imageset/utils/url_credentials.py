"""Credentials in URLs: used by this process, but neither shown nor stored.

`mask_url` replaces the credentials of a URL with MASK: a password or token before the host, and the values of
query parameters that are named like a signature, a key, a token or similar. The credentials stay in the memory of
this process and are restored for the request itself. A stored URL is always masked; if it is used again, a
UserError says that its credentials are not stored.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus, urlsplit

from imageset.exceptions import UserError

MASK = "***"
Secrets = tuple[tuple[str, str], ...]  # (text in the masked URL, text in the real URL)

_LOCAL_PREFIXES = ("file://", "sklearn://", "torchvision://")
_CREDENTIAL_PATTERN = re.compile(
    r"x-(amz|goog|oss|cos|obs|ms)-.*"
    r"|.*(signature|token|secret|passw|credential|accessid|auth|jwt|session|hmac).*"
    r"|(.*[-_])?(api|access|private|secret)[-_]?key([-_]?id)?|awsaccesskeyid|key-pair-id"
    r"|sig|sign|key|pwd|pass|policy|expires",
    re.I,
)
_AZURE_SIGNATURE_KEYS = frozenset(
    ["se", "st", "sp", "sv", "sr", "spr", "sip", "ske", "skt", "sks", "skv", "skoid", "sktid"]
)
_JSON_WEB_TOKEN_PATTERN = re.compile(r"eyJ[\w-]{8,}\.")
_secrets_by_url: dict[str, Secrets] = {}  # masked URL -> its credentials


def mask_url(url: str) -> str:
    """Return a URL without its credentials; text that is not a URL, or a local URL, is returned unchanged.

    Raises:
        UserError: the URL cannot be parsed.
    """
    if "://" not in url or url.startswith(_LOCAL_PREFIXES):
        return url
    try:
        scheme, netloc, _, query, _ = urlsplit(url)
    except ValueError as error:
        raise UserError(f"not an address: {error}") from None
    pairs = []
    if "@" in netloc:
        login, _, host = netloc.rpartition("@")
        pairs.append((f"//{_mask_login(scheme, login)}@{host}", f"//{netloc}"))
    pieces = query.split("&")
    names = {piece.partition("=")[0] for piece in pieces}
    pairs += [(_mask_piece(piece, "sig" in names), piece) for piece in pieces]
    secrets = tuple((masked, real) for masked, real in pairs if masked != real)
    if not secrets:
        return url
    masked_url = url
    for masked, real in _sort_longest_first(secrets, 1):
        masked_url = masked_url.replace(real, masked, 1)
    _secrets_by_url[masked_url] = secrets
    return masked_url


def extract_secrets(masked_url: str) -> Secrets:
    """Return the credentials that `mask_url` removed from a URL.

    Raises:
        UserError: another process masked the URL, so its credentials are not known.
    """
    if masked_url not in _secrets_by_url and re.search(r"=\*{3}(?=[&#]|$)|//[^/]*\*{3}@", masked_url):
        raise UserError(f"{masked_url}: its credentials are not stored; give the source again with the whole URL")
    return _secrets_by_url.get(masked_url, ())


def restore_secrets(url: str, secrets: Secrets) -> str:
    """Return a masked URL, or another URL with the same beginning or query, with its credentials."""
    for masked, real in _sort_longest_first(secrets, 0):
        url = url.replace(masked, real, 1)
    return url


def redact(text: str) -> str:
    """Return a library's message without any credentials that this process was given."""
    for masked, real in {pair for secrets in _secrets_by_url.values() for pair in secrets}:
        for spelling in (real, unquote(real)):
            text = text.replace(spelling, masked)
    return text


def _mask_login(scheme: str, login: str) -> str:
    """Mask the password of a login; over http a name without a password is a token, which is masked as well."""
    name, colon, _ = login.partition(":")
    if colon:
        return f"{name}:{MASK}"
    return MASK if scheme in ("http", "https") else login


def _mask_piece(piece: str, by_azure: bool) -> str:
    name, _, value = piece.partition("=")
    plain = unquote_plus(name)
    hidden = (
        _CREDENTIAL_PATTERN.fullmatch(plain)
        or (by_azure and plain in _AZURE_SIGNATURE_KEYS)
        or _JSON_WEB_TOKEN_PATTERN.match(value)
    )
    return f"{name}={MASK}" if value and hidden else piece


def _sort_longest_first(secrets: Secrets, side: int) -> list[tuple[str, str]]:
    """Sort pairs, so that "Signature=..." is not replaced within "X-Amz-Signature=..."."""
    return sorted(secrets, key=lambda pair: -len(pair[side]))
