import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from flows.labeling import xmp
from tests.helpers.real_data import find_hostile_file

DC, RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
PACKET = xmp.build_packet(["daisy <&> Gänseblümchen"], {"probability": "0.9312"})


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
    tagged = xmp.embed_packet(data, PACKET)
    assert subjects(tagged) == ["daisy <&> Gänseblümchen"]
    added = len(tagged) - len(data)
    at = tagged.index(b"http://ns.adobe.com/xap/1.0/\0" if name != "png" else b"iTXt") - 4
    assert tagged[:at] + tagged[at + added :] == data


@pytest.mark.parametrize("name", FILES)
def test_pixels_and_exif_are_those_of_before(name):
    before, after = (Image.open(io.BytesIO(one)) for one in (FILES[name], xmp.embed_packet(FILES[name], PACKET)))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert dict(before.getexif()) == dict(after.getexif())


@pytest.mark.parametrize("name", FILES)
def test_our_own_earlier_tags_are_replaced(name):
    other = xmp.build_packet(["rose", "red"], {})
    twice = xmp.embed_packet(xmp.embed_packet(FILES[name], PACKET), other)
    assert subjects(twice) == ["rose", "red"]
    assert twice == xmp.embed_packet(FILES[name], other)


@pytest.mark.parametrize("name", FILES)
def test_tags_of_someone_else_are_left_alone(name):
    foreign = xmp.embed_packet(FILES[name], PACKET.replace(xmp.TOOLKIT, b'x:xmptk="Camera"'))
    with pytest.raises(xmp.TaggingError, match="has XMP of another program"):
        xmp.embed_packet(foreign, PACKET)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused(name):
    for end in (3, 20, 60):
        with pytest.raises(xmp.TaggingError):
            xmp.embed_packet(FILES[name][:end], PACKET)


def test_other_formats_and_tags_that_are_too_long_are_refused():
    with pytest.raises(xmp.TaggingError, match="only JPEG and PNG"):
        xmp.embed_packet(picture("GIF"), PACKET)
    with pytest.raises(xmp.TaggingError, match="longer than a JPEG segment"):
        xmp.embed_packet(FILES["jpeg"], xmp.build_packet(["x" * 70_000], {}))


def test_nothing_but_a_refusal_comes_of_hostile_files():
    import tarfile

    num_tagged = 0
    with tarfile.open(find_hostile_file("corpus.tar.gz")) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            data = stream.read(1 << 20) if stream else b""
            try:
                tagged = xmp.embed_packet(data, PACKET)
            except xmp.TaggingError:
                continue
            num_tagged += 1
            assert PACKET in tagged and len(tagged) > len(PACKET)
    assert num_tagged > 10
