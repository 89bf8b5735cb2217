"""Format detection by the first bytes of a file, with hints for files that are not images."""

from __future__ import annotations

import re

from imageset.rejections import Rejected

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_J2K_SIGNATURE = b"\xff\x4f\xff\x51"

# Images (and files that browsers show as images) that are not decoded: signature, name.
_UNSUPPORTED = (
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x8bJNG", "JNG"),
    (b"\x8aMNG", "MNG"),
    (b"8BPS", "Photoshop"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"FLIF", "FLIF"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"\x00\x00\x02\x00", "cursor or Targa"),
    (b"farbfeld", "farbfeld"),
    (b"gimp xcf", "GIMP"),
    (b"P7\n", "PAM"),
    (b"Pf\n", "PFM"),
    (b"PF\n", "PFM"),
)

_HINTS = (
    (re.compile(rb"version https://git-lfs"), "a git-LFS pointer; fetch the picture with `git lfs pull`"),
    (re.compile(rb"outs:\s|\s*md5: [0-9a-f]{32}"), "a DVC pointer; fetch the picture with `dvc pull`"),
    (re.compile(rb"\s*<(!doctype html|html|head|body)", re.I), "a web page, perhaps an error page of a download"),
    (re.compile(rb"\s*[{\[]"), "JSON, perhaps an error message of a download"),
    (re.compile(rb"\x00\x05\x16\x07"), "a macOS resource file"),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb"\x1f\x8b"), "gzip data"),
    (re.compile(rb"\x7fELF|MZ"), "a program"),
)


def detect_format(data: bytes | memoryview) -> str:
    """Return Pillow's name of the format that the first bytes indicate.

    The name is one of JPEG, PNG, GIF, BMP, WEBP, TIFF, DICOM, PPM, JPEG2000, AVIF and HEIF (HEIC). Whether a
    decoder of the optional ones is installed is not checked.

    Raises:
        Rejected: "empty", "unsupported" (with the name of the format) or "not_an_image" (with a hint, if known).
    """
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if not data:
        raise Rejected("empty", "0 bytes")
    data = bytes(data)
    start = data[:64]
    for name, matches in (
        ("JPEG", len(data) < 5 and start[:2] == b"\xff\xd8"),
        ("PNG", start.startswith(b"\x89PNG\r\n\x1a\n")),
        ("GIF", start[:6] in (b"GIF87a", b"GIF89a")),
        ("BMP", start.startswith(b"BM")),
        ("WEBP", start[:4] == b"RIFF" and start[8:12] == b"WEBP"),
        ("DICOM", data[128:132] == b"DICM"),  # before it there may be the start of a TIFF
        ("TIFF", start[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")),
        ("PPM", re.match(rb"P[1-6][\s#]", start) is not None),
        ("JPEG2000", start.startswith((_JP2_SIGNATURE, _J2K_SIGNATURE))),
        ("AVIF", _detect_iso_media(start) == "AVIF"),
        ("HEIF", _detect_iso_media(start) == "HEIF"),
    ):
        if matches:
            return name
    raise _build_rejected(data, start)


def read_webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels from the first chunk of a WebP file (RFC 9649), or None if it has none.

    Pillow allocates the whole canvas, 8 bytes a pixel, when it opens a file: the size must be checked before.
    """
    chunk, start = data[12:16], data[20:30]
    if chunk == b"VP8X" and len(start) == 10:  # 24 bits each, minus one
        return 1 + int.from_bytes(start[4:7], "little"), 1 + int.from_bytes(start[7:10], "little")
    if chunk == b"VP8L" and start[:1] == b"\x2f" and len(start) >= 5:  # 14 bits each, minus one
        bits = int.from_bytes(start[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and start[3:6] == b"\x9d\x01\x2a" and len(start) == 10:  # 14 bits each
        return int.from_bytes(start[6:8], "little") & 0x3FFF, int.from_bytes(start[8:10], "little") & 0x3FFF
    return None


def _detect_iso_media(start: bytes) -> str | None:
    """Return AVIF, HEIF or video by the brands of an ISO base media file; None for any other file."""
    if start[4:8] != b"ftyp":
        return None
    length = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[i : i + 4] for i in range(16, min(length, len(start)), 4))]
    known = (("AVIF", _AVIF_BRANDS), ("HEIF", _HEIF_BRANDS - {b"mif1", b"msf1"}), ("HEIF", _HEIF_BRANDS))
    return next((kind for kind, names in known if names & set(brands)), "video")


def _build_rejected(data: bytes, start: bytes) -> Rejected:
    if _detect_iso_media(start) == "video":
        return Rejected("unsupported", "a video; cut pictures out of it")
    if re.search(rb"<svg[\s>/]", data[:4096]):
        return Rejected("unsupported", "SVG is a drawing, not pixels; render it to PNG")
    for signature, name in _UNSUPPORTED:
        if start.startswith(signature):
            return Rejected("unsupported", f"{name}; convert it to JPEG or PNG")
    for pattern, hint in _HINTS:
        if pattern.match(start):
            return Rejected("not_an_image", hint)
    if not any(start):
        return Rejected("not_an_image", f"{len(data):,} bytes that begin with zeros; perhaps a broken copy")
    if start.isascii() and start.translate(None, b"\t\r\n\f").decode().isprintable():
        return Rejected("not_an_image", "text")
    return Rejected("not_an_image", f"begins with {start[:8].hex(' ')}")


def is_truncated(data: bytes, format_name: str) -> bool:
    """Return whether the container's structure extends past the last byte or lacks its end marker."""
    if format_name == "JPEG":
        return b"\xff\xd9" not in data[-65536:]
    if format_name == "PNG":
        return _is_png_truncated(data)
    if format_name == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if format_name == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    if format_name == "GIF":
        return b"\x3b" not in data[-4096:]
    if format_name == "JPEG2000":
        return b"\xff\xd9" not in data[-4096:]
    if format_name in ("AVIF", "HEIF"):
        return _is_iso_media_truncated(data)
    return False


def _is_png_truncated(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return False
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return True


def _is_iso_media_truncated(data: bytes) -> bool:
    """Return whether a box of an ISO base media file extends past the end of the file (ISO 14496-12, 4.2)."""
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:  # the actual length follows in 64 bits
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length < 8:  # 0: the box extends to the end of the file
            return False
        position += length
    return position != len(data)
