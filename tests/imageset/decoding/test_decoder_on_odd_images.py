"""Odd but fine: each of these is decoded, and to the right pixels."""

from __future__ import annotations

import io
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageCms

from imageset.decoding.decoder import decode, decode_with_size
from imageset.decoding.spec import DecodeSpec
from imageset.rejections import Rejected
from tests.helpers.real_data import find_hostile_file

SPEC = DecodeSpec(size=32, channels=3, fit="crop", interpolation="bilinear", max_pixels=50_000_000)
NAMES = {
    *(f"synth/exif/orient_{number}.{kind}" for number in range(1, 9) for kind in ("jpg", "webp")),
    *("synth/exif/orient_9.jpg", "synth/exif/orient_255.jpg", "synth/exif/orient_65535.jpg"),
    *("synth/modes/CMYK.jpg", "synth/modes/cmyk_inverted_adobe.jpg", "synth/modes/grey16.png"),
    *("synth/modes/grey16.tif", "synth/modes/LA.png", "sharp/test/fixtures/rotating-squares.gif"),
    *("sharp/test/fixtures/rotating-squares.webp", "pillow/Tests/images/g4-multi.tiff"),
    *("imagers/tests/images/jpg/progressive/cat.jpg", "pillow/Tests/images/avif/rot3mir0.avif"),
    *("pillow/Tests/images/avif/hopper.avif", "pillow/Tests/images/avif/hopper.heif", "smallest/heif.heif"),
    *("sharp/test/fixtures/relax_tileparts.jp2", "imagemagick/PerlMagick/t/openjp2/input.j2k"),
    *("heif/tests/images/heif/L_12__128x128.heif", "heif/tests/images/heif/RGBA_8__128x128.heif"),
}


@pytest.fixture(scope="module")
def real() -> dict[str, bytes]:
    """Real files of the corpus by name."""
    found = {}
    with tarfile.open(find_hostile_file("corpus.tar.gz")) as archive:
        for member in archive:
            name = member.name.removeprefix("./").partition("/")[2]
            if name in NAMES:
                stream = archive.extractfile(member)
                assert stream is not None
                found[name] = stream.read()
    assert set(found) == NAMES
    return found


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures, of 255."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("kind", ["jpg", "webp"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_turned_upright(real: dict[str, bytes], kind: str, orientation: int) -> None:
    data = real[f"synth/exif/orient_{orientation}.{kind}"]
    stored = Image.open(io.BytesIO(data))
    assert stored.getexif()[0x0112] == orientation
    pixels, *sides = decode_with_size(data, SPEC)
    assert tuple(sides) == (stored.size[::-1] if orientation >= 5 else stored.size)
    assert far(pixels, np.asarray(turned_of(decode_as_stored(stored), orientation))) < 3


def decode_as_stored(stored: Image.Image) -> Image.Image:
    side = min(stored.size)
    left, top = (stored.width - side) // 2, (stored.height - side) // 2
    middle = stored.convert("RGB").crop((left, top, left + side, top + side))
    return middle.resize((32, 32), Image.Resampling.BILINEAR)


def turned_of(picture: Image.Image, orientation: int) -> Image.Image:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose by EXIF's orientation
    return picture.transpose(Image.Transpose(turns[orientation]))


@pytest.mark.parametrize("number", ["9", "255", "65535"])
def test_an_orientation_that_does_not_exist_turns_nothing(real: dict[str, bytes], number: str) -> None:
    data = real[f"synth/exif/orient_{number}.jpg"]
    assert far(decode(data, SPEC), np.asarray(decode_as_stored(Image.open(io.BytesIO(data))))) < 3


@pytest.mark.parametrize(
    "name",
    [
        "synth/modes/CMYK.jpg",
        "synth/modes/cmyk_inverted_adobe.jpg",
        "synth/modes/LA.png",
        "imagers/tests/images/jpg/progressive/cat.jpg",
        "sharp/test/fixtures/relax_tileparts.jp2",
        "imagemagick/PerlMagick/t/openjp2/input.j2k",
        "pillow/Tests/images/avif/hopper.avif",
    ],
)
def test_a_real_odd_picture_is_what_pillow_shows(real: dict[str, bytes], name: str) -> None:
    picture = Image.open(io.BytesIO(real[name]))
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA")) if picture.mode == "LA" else picture
    assert far(decode(real[name], SPEC), np.asarray(decode_as_stored(picture))) < 1


def test_ycck_becomes_rgb() -> None:
    planes = (255 - 179, 255 - 171, 255 - 1, 0)  # what Pillow inverts to YCbCr of cyan, which is 255 - red, and K
    data = saved(Image.new("CMYK", (16, 16), planes), "JPEG", quality=100)
    adobe = data.index(b"Adobe")
    data = data[: adobe + 11] + b"\x02" + data[adobe + 12 :]  # the transform: YCCK
    assert Image.open(io.BytesIO(data)).info["adobe_transform"] == 2
    pixels = decode(data, SPEC)
    assert pixels[..., 0].min() > 245 and pixels[..., 1:].max() < 10


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif"])
def test_sixteen_bits_keep_their_shades(real: dict[str, bytes], name: str) -> None:
    data = real[f"synth/modes/{name}"]
    values = np.asarray(Image.open(io.BytesIO(data))).astype(float) / 257
    pixels = decode(data, SPEC)
    assert abs(pixels.mean() - values.mean()) < 4 and len(np.unique(pixels)) > 8


def test_sixteen_bit_colour_keeps_its_colours() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + np.tile(np.array([60000, 30000, 300], ">u2"), 8).tobytes()
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(8 * row))
    pixels = decode(data + chunk(b"IEND", b""), SPEC)
    assert far(pixels, np.array([60000, 30000, 300]) // 257) <= 1


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_of_an_animation_the_first_frame_is_taken(real: dict[str, bytes], kind: str) -> None:
    data = real[f"sharp/test/fixtures/rotating-squares.{kind}"]
    animation = Image.open(io.BytesIO(data))
    frames = []
    for number in (0, animation.n_frames // 2):  # type: ignore[attr-defined]
        animation.seek(number)
        frame = Image.alpha_composite(Image.new("RGBA", animation.size, "white"), animation.convert("RGBA"))
        frames.append(np.asarray(decode_as_stored(frame)))
    pixels = decode(data, SPEC)
    assert far(pixels, frames[0]) < 2 < far(pixels, frames[1])


def test_of_many_pages_the_first_is_taken(real: dict[str, bytes]) -> None:
    pages = Image.open(io.BytesIO(real["pillow/Tests/images/g4-multi.tiff"]))
    assert pages.n_frames == 3  # type: ignore[attr-defined]
    assert decode_with_size(real["pillow/Tests/images/g4-multi.tiff"], SPEC)[1:] == pages.size
    colours = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(colours[0], "TIFF", save_all=True, append_images=colours[1:])
    assert tuple(decode(data, SPEC)[16, 16]) == (255, 0, 0)


def test_a_palette_with_soft_transparency_lies_on_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    pixels = decode(saved(palette, transparency=bytes([255, 128])), SPEC)
    assert far(pixels, np.array([227, 127, 127])) <= 1


def test_a_colour_profile_changes_no_pixel() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for kind in ("PNG", "JPEG", "WEBP"):
        plain = decode(saved(picture, kind), SPEC)
        np.testing.assert_array_equal(decode(saved(picture, kind, icc_profile=profile), SPEC), plain)


def test_avif_with_a_turn_of_its_own_stands_upright(real: dict[str, bytes]) -> None:
    data = real["pillow/Tests/images/avif/rot3mir0.avif"]
    stored = Image.open(io.BytesIO(data))
    pixels, *sides = decode_with_size(data, SPEC)
    assert tuple(sides) == stored.size[::-1]
    assert far(pixels, np.asarray(turned_of(decode_as_stored(stored), 7))) < 2


@pytest.mark.parametrize(
    "name", ["heif/tests/images/heif/L_12__128x128.heif", "heif/tests/images/heif/RGBA_8__128x128.heif"]
)
def test_heic_is_decoded_where_its_decoder_is_installed(real: dict[str, bytes], name: str) -> None:
    pytest.importorskip("pillow_heif")
    pixels = decode(real[name], SPEC)
    assert pixels.shape == (32, 32, 3) and pixels.std() > 5


def test_heic_looks_like_the_same_picture_in_avif(real: dict[str, bytes]) -> None:
    pytest.importorskip("pillow_heif")
    heif, avif = (decode(real[f"pillow/Tests/images/avif/hopper.{kind}"], SPEC) for kind in ("heif", "avif"))
    assert far(heif, avif) < 6


def test_heic_is_unsupported_with_a_hint_where_its_decoder_is_missing(
    real: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # an import of it fails
    monkeypatch.setattr(Image, "OPEN", {name: how for name, how in Image.OPEN.items() if name != "HEIF"})
    with pytest.raises(Rejected) as caught:
        decode(real["smallest/heif.heif"], SPEC)
    assert caught.value.reason == "unsupported" and "pip install pillow-heif" in caught.value.detail


def test_avif_is_unsupported_where_pillow_was_built_without_it(
    real: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageset.decoding.decoder.features.check", lambda feature: False)
    with pytest.raises(Rejected) as caught:
        decode(real["pillow/Tests/images/avif/hopper.avif"], SPEC)
    assert caught.value.reason == "unsupported" and "Pillow" in caught.value.detail
