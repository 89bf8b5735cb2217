from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imageset.decoding.bit_depth import Peak, choose_ranges, describe_ranges
from imageset.decoding.decoder import decode, decode_clipped_into
from imageset.decoding.spec import DecodeSpec
from imageset.rejections import Rejected
from tests.helpers.high_bit_depth import draw_values, encode_png16, encode_tiff

SPEC = DecodeSpec(20, 3, "stretch", "nearest", 10**6)
TWELVE = replace(SPEC, integer_max=4095)


TIFFS = ("TIFF <", "TIFF >", "TIFF < compressed", "TIFF > compressed")
FORMS = [
    *(("PNG", channels) for channels in (1, 2, 3, 4)),
    *((kind, channels) for kind in TIFFS for channels in (1, 3, 4)),  # Pillow reads no grey with transparency
]


@pytest.mark.parametrize(("kind", "channels"), FORMS)
def test_twelve_of_sixteen_bits_use_all_grey_levels(kind: str, channels: int) -> None:
    values = draw_values(channels, 12, (20, 20, channels))
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque
    plane = values[..., 0] if channels == 1 else values
    data = (
        encode_png16(plane)
        if kind == "PNG"
        else encode_tiff(plane, kind[5], compressed=kind.endswith("compressed"))
    )
    colours = values[..., : 3 if channels > 2 else 1].astype(float)
    assert np.abs(decode(data, TWELVE) - np.rint(colours / 4095 * 255)).max() <= 1
    assert decode(data, SPEC).max() <= 16  # the range of the type


def test_transparency_of_twelve_bits_is_scaled_like_the_colours() -> None:
    values = np.full((20, 20, 4), 4095, np.uint16)
    values[..., :3] = 2048
    assert decode(encode_png16(values), TWELVE).max() == 128


def test_a_real_sixteen_bit_picture_stays_as_it_is() -> None:
    values = draw_values(0, 16)
    np.testing.assert_array_equal(decode(encode_png16(values), SPEC)[..., 0], (values.astype(int) + 128) // 257)


@pytest.mark.parametrize(
    ("peaks", "integer_max", "float_max", "line"),
    [
        ([], 65535, None, ""),
        ([Peak(65535, False)], 65535, None, ""),
        ([Peak(0, False)], 255, None, "16-bit pictures hold 8 bits: read with a range of 255"),
        ([Peak(256, False)], 1023, None, "16-bit pictures hold 10 bits: read with a range of 1,023"),
        (
            [Peak(1, False), Peak(4e3, False)],
            4095,
            None,
            "16-bit pictures hold 12 bits: read with a range of 4,095",
        ),
        ([Peak(4096, False)], 16383, None, "16-bit pictures hold 14 bits: read with a range of 16,383"),
        ([Peak(16384, False)], 65535, None, ""),
        ([Peak(0.5, True)], 65535, 1, "floating-point pictures are read with a range of 1"),
        (
            [Peak(0.5, True), Peak(4e3, True)],
            65535,
            4095,
            "floating-point pictures are read with a range of 4,095",
        ),
        ([Peak(0.5, True), Peak(900, False)], 1023, 1, "16-bit pictures hold 10 bits: read with a range of 1,023"),
    ],
)
def test_the_range_of_a_set_contains_every_picture(
    peaks: list[Peak], integer_max: int, float_max: int | None, line: str
) -> None:
    spec = choose_ranges(SPEC, peaks)
    assert (spec.integer_max, spec.float_max) == (integer_max, float_max)
    assert (describe_ranges(spec) or [""])[0] == line


@pytest.mark.parametrize(
    "data",
    [
        encode_png16(draw_values(0, 16)),
        encode_png16(draw_values(0, 16, (20, 20, 3))),
        encode_tiff(draw_values(0, 14).astype(np.int32)),
        encode_tiff(draw_values(0, 14).astype(np.float32)),
    ],
)
def test_a_picture_beyond_the_range_of_its_model_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected, match=r"values up to [0-9,]+, but the pictures of the training set end at 4,095"):
        decode(data, replace(TWELVE, float_max=4095))
    pixels = np.empty(SPEC.shape, np.uint8)
    *_, peak = decode_clipped_into(pixels, data, replace(TWELVE, float_max=4095))
    assert peak and peak.value > 4095 and pixels.max() == 255


def test_a_float_picture_without_a_dataset_is_scaled_by_its_own_values() -> None:
    for limit in (1, 255, 65535):
        values = (np.linspace(0, limit, 400).reshape(20, 20)).astype(np.float32)
        assert abs(decode(encode_tiff(values), SPEC).mean() - 127.5) < 1
    assert decode(encode_tiff(values / 65535), replace(SPEC, float_max=255)).max() == 1  # dark in its set


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((20, 20), -5, np.int16), "values from -5 to -5; 0 to 65535 can be shown"),
        (np.full((20, 20), 70_000, np.int32), "values from 70000 to 70000; 0 to 65535 can be shown"),
        (np.full((20, 20), np.nan, np.float32), "holds numbers that are not finite"),
    ],
)
def test_values_without_a_grey_level_are_refused(values: np.ndarray, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        decode(encode_tiff(values), SPEC)


def test_ranges_of_the_type_leave_no_trace_in_manifests() -> None:
    assert "integer_max" not in SPEC.to_dict() and "float_max" not in SPEC.to_dict()
    assert TWELVE.to_dict()["integer_max"] == 4095
    for spec in (SPEC, TWELVE, replace(SPEC, float_max=1)):
        assert DecodeSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="integer_max"):
        replace(SPEC, integer_max=0)
