import io
import tarfile
import zlib
from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from flows.labeling import xmp, xmp_packet
from flows.labeling.xmp_packet import Tags
from tests.helpers.malformed import make_malformed_files
from tests.helpers.real_data import find_hostile_file
from tests.helpers.xmp_samples import LIGHTROOM, REFUSED

DC, RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DAISY = Tags(["daisy <&> Gänseblümchen"], {"probability": "0.9312"})


def picture(format: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif, quality=90)


FILES = {
    "jpeg": picture("JPEG"),
    "exif": with_exif(),
    "png": picture("PNG"),
    "progressive": picture("JPEG", progressive=True),
}


def subjects(data: bytes) -> list[str]:
    """Read the tags with a parser that is not ours."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        packet = opened.info["xmp"] if "xmp" in opened.info else opened.info["XML:com.adobe.xmp"]
    text = packet.decode() if isinstance(packet, bytes) else packet
    return [li.text or "" for li in ElementTree.fromstring(text).iterfind(f".//{DC}subject/{RDF}Bag/{RDF}li")]


@pytest.mark.parametrize("name", FILES)
def test_another_reader_finds_the_tags_and_only_a_segment_was_added(name):
    data = FILES[name]
    tagged = xmp.embed_tags(data, DAISY)
    assert subjects(tagged) == ["daisy <&> Gänseblümchen"]
    added = len(tagged) - len(data)
    at = tagged.index(b"http://ns.adobe.com/xap/1.0/\0" if name != "png" else b"iTXt") - 4
    assert tagged[:at] + tagged[at + added :] == data


@pytest.mark.parametrize("name", FILES)
def test_pixels_and_exif_are_those_of_before(name):
    before, after = (Image.open(io.BytesIO(one)) for one in (FILES[name], xmp.embed_tags(FILES[name], DAISY)))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert dict(before.getexif()) == dict(after.getexif())


@pytest.mark.parametrize("name", FILES)
def test_our_own_earlier_tags_are_replaced(name):
    other = Tags(["rose", "red"])
    twice = xmp.embed_tags(xmp.embed_tags(FILES[name], DAISY), other)
    assert subjects(twice) == ["rose", "red"]
    assert twice == xmp.embed_tags(FILES[name], other)


def with_packet(name: str, packet: bytes) -> bytes:
    """A file whose XMP another program wrote."""
    ours = xmp.embed_tags(FILES[name], DAISY)
    return replace_packet(ours, read_packet(ours), packet)


def read_packet(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        packet = opened.info["xmp"] if "xmp" in opened.info else opened.info["XML:com.adobe.xmp"]
    return packet if isinstance(packet, bytes) else packet.encode()


def replace_packet(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace a packet, and mend the lengths and the checksum around it."""
    at = data.index(old)
    if data.startswith(b"\xff\xd8"):
        at -= len(b"http://ns.adobe.com/xap/1.0/\0")
        length = int.from_bytes(data[at - 2 : at], "big") + len(new) - len(old)
        return data[: at - 2] + length.to_bytes(2, "big") + data[at:].replace(old, new)
    at -= len(b"XML:com.adobe.xmp\0\0\0\0\0")
    length = int.from_bytes(data[at - 8 : at - 4], "big")
    body = data[at - 4 : at + length].replace(old, new)
    crc = zlib.crc32(body).to_bytes(4, "big")
    return data[: at - 8] + (len(body) - 4).to_bytes(4, "big") + body + crc + data[at + length + 4 :]


@pytest.mark.parametrize("name", FILES)
def test_tags_are_merged_into_the_packet_of_another_program_at_its_place(name):
    foreign = with_packet(name, LIGHTROOM.encode())
    tagged = xmp.embed_tags(foreign, DAISY)
    assert subjects(tagged) == ["München", "garden & flowers", *DAISY.subjects]
    packet = read_packet(tagged)
    assert xmp_packet.remove_tags(packet) == LIGHTROOM.encode()
    assert replace_packet(tagged, packet, LIGHTROOM.encode()) == foreign
    assert xmp.embed_tags(tagged, DAISY) == tagged


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("packet", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_packet_that_cannot_be_merged_with_is_named(name, packet, reason):
    with pytest.raises(xmp.TaggingError, match=f"^has .*{reason}"):
        xmp._merge_tags(packet, DAISY)
    if packet and b"\0" not in packet and b"\xe4" not in packet:
        with pytest.raises(xmp.TaggingError, match=f"^has .*{reason}"):
            xmp.embed_tags(with_packet(name, packet), DAISY)


def test_two_packets_and_packets_in_odd_places_are_refused():
    jpeg, png = with_packet("jpeg", LIGHTROOM.encode()), with_packet("png", LIGHTROOM.encode())
    at = jpeg.index(b"http://ns.adobe.com/xap") - 4
    end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40 + b'xmlns:dc="http://purl.org/dc/elements/1.1/"'
    segment = b"\xff\xe1" + (len(extended) + 2).to_bytes(2, "big") + extended
    start = png.index(b"iTXt") - 4
    chunk = png[start : start + 12 + int.from_bytes(png[start : start + 4], "big")]
    flagged = png.replace(b"XML:com.adobe.xmp\0\0", b"XML:com.adobe.xmp\0\1")
    magick = xmp._build_chunk(b"Raw profile type xmp\0\0\0\0\0", b"x")
    for data, reason in [
        (jpeg[:end] + jpeg[at:], "has XMP twice"),
        (png[:start] + chunk + png[start:], "has XMP twice"),
        (jpeg[:end] + segment + jpeg[end:], "has keywords in extended XMP"),
        (flagged, "has compressed XMP"),
        (png.replace(b"iTXtXML", b"tEXtXML"), "has XMP in a chunk that is not for it"),
        (png[:start] + magick + png[start:], "has XMP in a chunk that is not for it"),
    ]:
        with pytest.raises(xmp.TaggingError, match=reason):
            xmp.embed_tags(data, DAISY)
    history = segment.replace(b"purl.org/dc/elements/1.1", b"ns.adobe.com/xap/1.0/...")
    assert history in xmp.embed_tags(jpeg[:end] + history + jpeg[end:], DAISY)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused(name):
    for end in (3, 20, 60):
        with pytest.raises(xmp.TaggingError):
            xmp.embed_tags(FILES[name][:end], DAISY)


def test_other_formats_and_tags_that_are_too_long_are_refused():
    with pytest.raises(xmp.TaggingError, match="only JPEG and PNG"):
        xmp.embed_tags(picture("GIF"), DAISY)
    with pytest.raises(xmp.TaggingError, match="longer than a JPEG segment"):
        xmp.embed_tags(FILES["jpeg"], Tags(["x" * 70_000]))


def count_tagged(files: Iterable[bytes]) -> int:
    num_tagged = 0
    for data in files:
        try:
            tagged = xmp.embed_tags(data, DAISY)
        except xmp.TaggingError:
            continue
        num_tagged += 1
        assert b"<convoy:tags>" in tagged and len(tagged) > len(data)
    return num_tagged


def test_nothing_but_a_refusal_comes_of_malformed_files():
    assert 10 < count_tagged(make_malformed_files().values()) < len(make_malformed_files())


def test_nothing_but_a_refusal_comes_of_hostile_files():
    with tarfile.open(find_hostile_file("corpus.tar.gz")) as archive:
        streams = (archive.extractfile(member) for member in archive if member.isreg())
        assert count_tagged(stream.read(1 << 20) for stream in streams if stream) > 10
