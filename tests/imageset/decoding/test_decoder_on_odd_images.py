"""Odd but fine: each of these is decoded, and to the right pixels."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageCms

from imageset.decoding.decoder import decode, decode_with_size
from imageset.decoding.spec import DecodeSpec
from imageset.rejections import Rejected
from tests.helpers.odd_images import encode_heic, make_odd_files
from tests.helpers.photographs import open_photograph
from tests.helpers.real_data import find_hostile_file

SPEC = DecodeSpec(size=32, channels=3, fit="crop", interpolation="bilinear", max_pixels=50_000_000)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures, of 255."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    check_orientation(make_odd_files()[f"orientation_{orientation}.{kind}"], orientation)


def check_orientation(data: bytes, orientation: int) -> None:
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
def test_an_orientation_that_does_not_exist_turns_nothing(number: str) -> None:
    check_unturned(make_odd_files()[f"orientation_{number}.jpeg"])


def check_unturned(data: bytes) -> None:
    assert far(decode(data, SPEC), np.asarray(decode_as_stored(Image.open(io.BytesIO(data))))) < 3


@pytest.mark.parametrize(
    "name",
    [
        "cmyk.jpeg",
        "cmyk_without_adobe.jpeg",
        "la.png",
        "progressive.jpeg",
        "tiled.jp2",
        "codestream.j2k",
        "photo.avif",
    ],
)
def test_an_odd_picture_is_what_pillow_shows(name: str) -> None:
    check_as_pillow(make_odd_files()[name])


def check_as_pillow(data: bytes) -> None:
    picture = Image.open(io.BytesIO(data))
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA")) if picture.mode == "LA" else picture
    assert far(decode(data, SPEC), np.asarray(decode_as_stored(picture))) < 1


def test_ycck_becomes_rgb() -> None:
    planes = (255 - 179, 255 - 171, 255 - 1, 0)  # what Pillow inverts to YCbCr of cyan, which is 255 - red, and K
    data = saved(Image.new("CMYK", (16, 16), planes), "JPEG", quality=100)
    adobe = data.index(b"Adobe")
    data = data[: adobe + 11] + b"\x02" + data[adobe + 12 :]  # the transform: YCCK
    assert Image.open(io.BytesIO(data)).info["adobe_transform"] == 2
    pixels = decode(data, SPEC)
    assert pixels[..., 0].min() > 245 and pixels[..., 1:].max() < 10


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif"])
def test_sixteen_bits_keep_their_shades(name: str) -> None:
    check_shades(make_odd_files()[name])


def check_shades(data: bytes) -> None:
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
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    check_animation(make_odd_files()[f"frames.{kind}"])


def check_animation(data: bytes) -> None:
    animation = Image.open(io.BytesIO(data))
    frames = []
    for number in (0, animation.n_frames // 2):  # type: ignore[attr-defined]
        animation.seek(number)
        frame = Image.alpha_composite(Image.new("RGBA", animation.size, "white"), animation.convert("RGBA"))
        frames.append(np.asarray(decode_as_stored(frame)))
    pixels = decode(data, SPEC)
    assert far(pixels, frames[0]) < 2 < far(pixels, frames[1])


def check_pages(data: bytes) -> None:
    pages = Image.open(io.BytesIO(data))
    assert pages.n_frames == 3  # type: ignore[attr-defined]
    assert decode_with_size(data, SPEC)[1:] == pages.size


def test_of_many_pages_the_first_is_taken() -> None:
    check_pages(make_odd_files()["pages.tif"])
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


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_heic_looks_like_the_picture_that_was_encoded(mode: str) -> None:
    pytest.importorskip("pillow_heif")
    picture = open_photograph("china.jpg").resize((160, 106)).convert(mode)
    assert far(decode(encode_heic(picture), SPEC), np.asarray(decode_as_stored(picture))) < 3


def test_heic_is_unsupported_with_a_hint_where_its_decoder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_heif")
    data = encode_heic(open_photograph("china.jpg").resize((64, 64)))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # an import of it fails
    monkeypatch.setattr(Image, "OPEN", {name: how for name, how in Image.OPEN.items() if name != "HEIF"})
    with pytest.raises(Rejected) as caught:
        decode(data, SPEC)
    assert caught.value.reason == "unsupported" and "pip install pillow-heif" in caught.value.detail


def test_avif_is_unsupported_where_pillow_was_built_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageset.decoding.decoder.features.check", lambda feature: False)
    with pytest.raises(Rejected) as caught:
        decode(make_odd_files()["photo.avif"], SPEC)
    assert caught.value.reason == "unsupported" and "Pillow" in caught.value.detail


# ---- files of other programs -----------------------------------------------------------------------------------


def check_heic(data: bytes) -> None:
    pytest.importorskip("pillow_heif")
    pixels = decode(data, SPEC)
    assert pixels.shape == (32, 32, 3) and pixels.std() > 5


CHECKS: dict[str, Callable[[bytes], None]] = {
    **{
        f"synth/exif/orient_{number}.{kind}": partial(check_orientation, orientation=number)
        for number in range(2, 9)
        for kind in ("jpg", "webp")
    },
    "pillow/Tests/images/avif/rot3mir0.avif": partial(check_orientation, orientation=7),
    **{f"synth/exif/orient_{number}.jpg": check_unturned for number in (9, 255, 65535)},
    "synth/modes/CMYK.jpg": check_as_pillow,
    "synth/modes/cmyk_inverted_adobe.jpg": check_as_pillow,
    "synth/modes/LA.png": check_as_pillow,
    "imagers/tests/images/jpg/progressive/cat.jpg": check_as_pillow,
    "sharp/test/fixtures/relax_tileparts.jp2": check_as_pillow,
    "imagemagick/PerlMagick/t/openjp2/input.j2k": check_as_pillow,
    "pillow/Tests/images/avif/hopper.avif": check_as_pillow,
    "synth/modes/grey16.png": check_shades,
    "synth/modes/grey16.tif": check_shades,
    "sharp/test/fixtures/rotating-squares.gif": check_animation,
    "sharp/test/fixtures/rotating-squares.webp": check_animation,
    "pillow/Tests/images/g4-multi.tiff": check_pages,
    "pillow/Tests/images/avif/hopper.heif": check_heic,
    "heif/tests/images/heif/L_12__128x128.heif": check_heic,
    "heif/tests/images/heif/RGBA_8__128x128.heif": check_heic,
}


def test_the_same_holds_for_files_of_other_programs() -> None:
    found = {}
    with tarfile.open(find_hostile_file("corpus.tar.gz")) as archive:
        for member in archive:
            name = member.name.removeprefix("./").partition("/")[2]
            if name in CHECKS:
                found[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    assert set(found) == set(CHECKS)
    for name, data in found.items():
        try:
            CHECKS[name](data)
        except (AssertionError, Rejected) as error:
            error.add_note(name)
            raise
    heif, avif = (decode(found[f"pillow/Tests/images/avif/hopper.{kind}"], SPEC) for kind in ("heif", "avif"))
    assert far(heif, avif) < 6
