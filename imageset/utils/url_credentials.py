"""Credentials in URLs: used by this process, and neither shown nor stored.

`mask_url` puts MASK in the place of what lets the bearer of a URL in: a password or token before the host, and what
the query gives under the name of a signature, a key, a token or the like. What it took out stays in the memory of
this process alone, and is put back for the request itself. A URL that was written down is a masked one, and is
refused with that reason when it is used again.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus, urlsplit

from imageset.exceptions import UserError

MASK = "***"
Secrets = tuple[tuple[str, str], ...]  # what stands in a masked URL, and what stood there

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
_secrets_by_url: dict[str, Secrets] = {}  # masked URL -> what was taken out of it


def mask_url(url: str) -> str:
    """The URL without its credentials; what is no URL, or names a place of this machine, as it is.

    Raises:
        UserError: it cannot be read as a URL.
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
    taken = tuple((masked, real) for masked, real in pairs if masked != real)
    if not taken:
        return url
    masked_url = url
    for masked, real in _sort_longest_first(taken, 1):
        masked_url = masked_url.replace(real, masked, 1)
    _secrets_by_url[masked_url] = taken
    return masked_url


def extract_secrets(masked_url: str) -> Secrets:
    """What `mask_url` took out of a URL.

    Raises:
        UserError: the URL was masked by another process, so that nobody knows.
    """
    if masked_url not in _secrets_by_url and re.search(r"=\*{3}(?=[&#]|$)|//[^/]*\*{3}@", masked_url):
        raise UserError(
            f"{masked_url}: its credentials were used and not kept; name the source again with the whole URL"
        )
    return _secrets_by_url.get(masked_url, ())


def restore_secrets(url: str, secrets: Secrets) -> str:
    """The URL, or another one that begins or ends alike, with its credentials."""
    for masked, real in _sort_longest_first(secrets, 0):
        url = url.replace(masked, real, 1)
    return url


def redact(text: str) -> str:
    """A message of somebody else's without any credential that this process was given."""
    for masked, real in {pair for taken in _secrets_by_url.values() for pair in taken}:
        for found in (real, unquote(real)):
            text = text.replace(found, masked)
    return text


def _mask_login(scheme: str, login: str) -> str:
    """A password is one, and over http a name alone is a token; elsewhere it is a name."""
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


def _sort_longest_first(taken: Secrets, side: int) -> list[tuple[str, str]]:
    """So that "Signature=..." is not looked for within "X-Amz-Signature=..."."""
    return sorted(taken, key=lambda pair: -len(pair[side]))
