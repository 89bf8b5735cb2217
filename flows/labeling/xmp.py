"""Write tags to images as an XMP packet in a JPEG or PNG file, or in a sidecar file. Pixels are never changed.

Sources: XMP Specification Part 1 (ISO 16684-1) for the packet; Part 3 (Adobe, 2020), section 1.1.3 for the APP1
segment of JPEG and section 1.1.5 for the iTXt chunk of PNG; PNG Specification (W3C), 11.3.3.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

TOOLKIT = b'x:xmptk="Convoy"'  # identifies the packets that Convoy wrote
NAMESPACE = "urn:x-convoy:xmp:1.0#"
_JPEG_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEYWORD = b"XML:com.adobe.xmp\0"
_MAX_SEGMENT = 65_533  # bytes, without the 2 bytes of the length
_SOI, _SOS, _APP0, _APP1 = 0xD8, 0xDA, 0xE0, 0xE1


class TaggingError(Exception):
    """The image cannot hold the tags; the message is the reason."""


def build_packet(subjects: Sequence[str], properties: Mapping[str, str]) -> bytes:
    """Build an XMP packet: `subjects` as dc:subject, `properties` in Convoy's own namespace."""
    bag = "".join(f"<rdf:li>{_escape_text(subject)}</rdf:li>" for subject in subjects)
    elements = "".join(
        f"   <convoy:{name}>{_escape_text(value)}</convoy:{name}>\n" for name, value in properties.items()
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" {TOOLKIT.decode()}>\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
        f'    xmlns:convoy="{NAMESPACE}">\n'
        f"   <dc:subject><rdf:Bag>{bag}</rdf:Bag></dc:subject>\n"
        f"{elements}"
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    ).encode()


def embed_packet(data: bytes, packet: bytes) -> bytes:
    """Return the file with the packet in it; an earlier packet of Convoy is replaced.

    Raises:
        TaggingError: the file is not a JPEG or PNG file, is damaged, or has XMP of another program.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _embed_in_jpeg(data, packet)
    if data.startswith(_PNG_SIGNATURE):
        return _embed_in_png(data, packet)
    raise TaggingError("only JPEG and PNG files can hold tags")


def _escape_text(text: str) -> str:
    """Escape text for XML 1.0, which allows no control characters: each becomes a space."""
    return escape("".join(character if character.isprintable() else " " for character in text))


# ---- JPEG ------------------------------------------------------------------------------------------------------


def _embed_in_jpeg(data: bytes, xmp: bytes) -> bytes:
    length = len(_JPEG_HEADER) + len(xmp) + 2
    if length > _MAX_SEGMENT + 2:
        raise TaggingError("the tags are longer than a JPEG segment")
    segment = b"\xff\xe1" + length.to_bytes(2, "big") + _JPEG_HEADER + xmp
    position = 2
    earlier: list[tuple[int, int]] = []  # (start, end) of Convoy's own earlier packets, to be removed
    for marker, start, end in _iter_segments(data):
        body = data[start + 4 : end]
        if marker == _APP1 and body.startswith((_JPEG_HEADER, _JPEG_EXTENDED)):
            if TOOLKIT not in body:
                raise TaggingError("has XMP of another program")
            earlier.append((start, end))
        elif position == start and (marker == _APP0 or (marker == _APP1 and body.startswith(b"Exif\0"))):
            position = end  # JFIF and Exif come before XMP
    for start, end in reversed(earlier):
        data = data[:start] + data[end:]
    return data[:position] + segment + data[position:]


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


def _embed_in_png(data: bytes, xmp: bytes) -> bytes:
    body = _PNG_KEYWORD + b"\0\0" + b"\0" + b"\0" + xmp  # not compressed, no language, no translated keyword
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    earlier: list[tuple[int, int]] = []  # (start, end) of Convoy's own earlier packets, to be removed
    for kind, start, end in _iter_chunks(data):
        if kind in (b"iTXt", b"tEXt", b"zTXt") and data[start + 8 : end].startswith(_PNG_KEYWORD):
            if TOOLKIT not in data[start:end]:
                raise TaggingError("has XMP of another program")
            earlier.append((start, end))
    for start, end in reversed(earlier):
        data = data[:start] + data[end:]
    position = len(_PNG_SIGNATURE) + 25  # after IHDR
    return data[:position] + chunk + data[position:]


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
