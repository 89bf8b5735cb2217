from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from imageset.decoding.decoder import decode
from imageset.decoding.jpeg import apply_orientation, read_orientation
from imageset.decoding.spec import DecodeSpec

SPEC = DecodeSpec(size=8, channels=3, fit="stretch", interpolation="nearest", max_pixels=1_000_000)


def make_exif(orientation: int | str, tag: int = 0x0112) -> bytes:
    """EXIF data of one field: a number, or text, which is no orientation."""
    kind, value = (
        (3, struct.pack("<H", orientation)) if isinstance(orientation, int) else (2, orientation.encode())
    )
    header = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1)
    return header + struct.pack("<HHI4sI", tag, kind, 1 if kind == 3 else 2, value, 0)


def write_jpeg(orientation: int | str, tag: int = 0x0112) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=make_exif(orientation, tag))
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_turns_and_mirrors_as_pillow_does(orientation):
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    picture = Image.fromarray(stored)
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(apply_orientation(stored, orientation), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_jpeg_is_read(orientation):
    assert read_orientation(write_jpeg(orientation)) == orientation


@pytest.mark.parametrize("orientation", [0, 9, "6"])
def test_an_orientation_that_is_none_leaves_the_photograph_as_it_is(orientation):
    assert read_orientation(write_jpeg(orientation)) == 1


def test_without_an_orientation_or_a_jpeg_nothing_is_turned():
    assert read_orientation(write_jpeg(6, tag=0x0111)) == 1
    assert read_orientation(b"no JPEG") == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, "6", None, b"Exif\0\0garbage"])
def test_a_photograph_of_every_orientation_is_decoded_upright(kind, orientation):
    quarters = np.zeros((32, 32, 3), np.uint8)
    quarters[:16, :16], quarters[:16, 16:], quarters[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    picture, buffer = Image.fromarray(quarters), io.BytesIO()
    exif = orientation if isinstance(orientation, bytes) else orientation and make_exif(orientation)
    picture.save(buffer, kind, exif=exif or b"", quality=95)
    if isinstance(orientation, int):
        picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture).resize((8, 8), Image.Resampling.NEAREST), np.int16)
    corners = np.ix_([0, 7], [0, 7])
    assert np.abs(decode(buffer.getvalue(), SPEC)[corners] - expected[corners]).max() < 16
