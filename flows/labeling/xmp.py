"""Write tags to images as an XMP packet in a JPEG or PNG file. Pixels are never changed.

Where the file has a packet already, the tags are merged into it (flows.labeling.xmp_packet). The extended XMP of a
JPEG file stays as it is: the packet refers to it by its own digest.

Sources: XMP Specification Part 3 (Adobe, 2020), section 1.1.3 for the APP1
segment of JPEG and section 1.1.5 for the iTXt chunk of PNG; PNG Specification (W3C), 11.3.3.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from flows.labeling import xmp_packet
from flows.labeling.xmp_packet import Tags

_JPEG_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEYWORD = b"XML:com.adobe.xmp\0"
_PNG_IMAGEMAGICK = b"Raw profile type xmp\0"
_DUBLIN_CORE = b"http://purl.org/dc/elements/1.1/"
_MAX_SEGMENT = 65_533  # bytes, without the 2 bytes of the length
_SOI, _SOS, _APP0, _APP1 = 0xD8, 0xDA, 0xE0, 0xE1

_Span = tuple[int, int]  # (start, end) of a segment or chunk


class TaggingError(Exception):
    """The image cannot hold the tags; the message is the reason."""


def embed_tags(data: bytes, tags: Tags) -> bytes:
    """Return the file with the tags in it, in place of those that Convoy added before.

    Raises:
        TaggingError: the file is not a JPEG or PNG file, is damaged, or has XMP that nothing can be added to.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _embed_in_jpeg(data, tags)
    if data.startswith(_PNG_SIGNATURE):
        return _embed_in_png(data, tags)
    raise TaggingError("only JPEG and PNG files can hold tags")


def _merge_tags(packet: bytes, tags: Tags) -> bytes:
    try:
        return xmp_packet.merge_tags(packet, tags)
    except xmp_packet.PacketError as error:
        raise TaggingError(f"has {error}") from None


def _replace_span(data: bytes, span: _Span, replacement: bytes) -> bytes:
    return data[: span[0]] + replacement + data[span[1] :]


# ---- JPEG ------------------------------------------------------------------------------------------------------


def _embed_in_jpeg(data: bytes, tags: Tags) -> bytes:
    position = 2
    spans: list[_Span] = []
    for marker, start, end in _iter_segments(data):
        body = data[start + 4 : end]
        if marker == _APP1 and body.startswith(_JPEG_HEADER):
            spans.append((start, end))
        elif marker == _APP1 and body.startswith(_JPEG_EXTENDED) and _DUBLIN_CORE in body:
            raise TaggingError("has keywords in extended XMP")
        elif position == start and (marker == _APP0 or (marker == _APP1 and body.startswith(b"Exif\0"))):
            position = end  # JFIF and Exif come before XMP
    if len(spans) > 1:
        raise TaggingError("has XMP twice")
    start, end = spans[0] if spans else (position, position)
    earlier = data[start + 4 + len(_JPEG_HEADER) : end] if spans else xmp_packet.EMPTY_PACKET
    return _replace_span(data, (start, end), _build_segment(_merge_tags(earlier, tags)))


def _build_segment(packet: bytes) -> bytes:
    length = len(_JPEG_HEADER) + len(packet) + 2
    if length > _MAX_SEGMENT + 2:
        raise TaggingError("the tags are longer than a JPEG segment")
    return b"\xff\xe1" + length.to_bytes(2, "big") + _JPEG_HEADER + packet


def _iter_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment before the pixels."""
    at = 2
    while True:
        if at + 4 > len(data) or data[at] != 0xFF:
            raise TaggingError("has damaged JPEG segments")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == _SOS:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            raise TaggingError("has damaged JPEG segments")
        yield marker, at, end
        at = end


# ---- PNG -------------------------------------------------------------------------------------------------------


def _embed_in_png(data: bytes, tags: Tags) -> bytes:
    spans: list[_Span] = []
    for kind, start, end in _iter_chunks(data):
        if kind not in (b"iTXt", b"tEXt", b"zTXt"):
            continue
        body = data[start + 8 : end]
        if body.startswith(_PNG_IMAGEMAGICK) or (body.startswith(_PNG_KEYWORD) and kind != b"iTXt"):
            raise TaggingError("has XMP in a chunk that is not for it")
        if body.startswith(_PNG_KEYWORD):
            spans.append((start, end))
    if len(spans) > 1:
        raise TaggingError("has XMP twice")
    if spans:
        header, earlier = _split_chunk(data[spans[0][0] + 8 : spans[0][1] - 4])
        return _replace_span(data, spans[0], _build_chunk(header, _merge_tags(earlier, tags)))
    position = len(_PNG_SIGNATURE) + 25  # after IHDR
    header = _PNG_KEYWORD + b"\0\0" + b"\0" + b"\0"  # not compressed, no language, no translated keyword
    chunk = _build_chunk(header, _merge_tags(xmp_packet.EMPTY_PACKET, tags))
    return _replace_span(data, (position, position), chunk)


def _split_chunk(body: bytes) -> tuple[bytes, bytes]:
    """Split the body of an iTXt chunk into everything before its text, and the text."""
    flags = len(_PNG_KEYWORD)
    if body[flags : flags + 1] != b"\0":
        raise TaggingError("has compressed XMP")
    parts = body[flags + 2 :].split(b"\0", 2)  # language, translated keyword, text
    if len(parts) != 3:
        raise TaggingError("has damaged PNG chunks")
    return body[: len(body) - len(parts[2])], parts[2]


def _build_chunk(header: bytes, packet: bytes) -> bytes:
    body = header + packet
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body
    return chunk + struct.pack(">I", zlib.crc32(chunk[4:]))


def _iter_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of each chunk."""
    at = len(_PNG_SIGNATURE)
    if data[at + 4 : at + 8] != b"IHDR" or data[at : at + 4] != b"\0\0\0\r":
        raise TaggingError("has damaged PNG chunks")
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise TaggingError("has damaged PNG chunks")
        yield data[at + 4 : at + 8], at, end
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end
