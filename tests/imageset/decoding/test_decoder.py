from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from imageset.decoding import decoder as decode_module
from imageset.decoding.decoder import decode, read_image_header
from imageset.decoding.spec import DecodeSpec
from imageset.rejections import Rejected

SPEC = DecodeSpec(size=16, channels=3, fit="crop", interpolation="bilinear", max_pixels=1_000_000)


def picture_bytes(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture


def reason_of(data: bytes, spec: DecodeSpec = SPEC) -> str:
    with pytest.raises(Rejected) as caught:
        decode(data, spec)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_format_gives_a_square_of_bytes(kind: str) -> None:
    pixels = decode(picture_bytes(halves(), kind), SPEC)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels[8, 1, 0] > 200 and pixels[8, 14, 2] > 200


def test_grey_is_asked_for_and_given() -> None:
    assert decode(picture_bytes(halves()), DecodeSpec(16, 1, "crop", "bilinear", 10**6)).shape == (16, 16, 1)


def test_crop_keeps_the_middle_pad_keeps_all_and_stretch_distorts() -> None:
    wide = Image.new("RGB", (48, 16), (255, 255, 255))
    wide.paste((0, 0, 0), (0, 0, 16, 16))
    crop, pad, stretch = (
        decode(picture_bytes(wide), DecodeSpec(16, 3, fit, "nearest", 10**6)) for fit in ("crop", "pad", "stretch")
    )
    assert crop.min() == 255
    assert pad[0].max() == 0 and pad[8, 15].min() == 255 and pad[15].max() == 0
    assert stretch[:, :4].max() == 0 and stretch[:, 6:].min() == 255


CROP = DecodeSpec(14, 3, "crop", "bicubic", 10**6, crop_fraction=0.875)  # 14 of 16 px


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(40, 28), (28, 40), (16, 16), (14, 14), (9, 7)])
def test_a_crop_fraction_resizes_the_whole_picture_and_keeps_its_middle(kind: str, mode: str, size) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*reversed(size), 3), np.uint8)
    data = picture_bytes(Image.fromarray(pixels).convert(mode), kind)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = 16 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    left, top = (width - 14) // 2, (height - 14) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((left, top, left + 14, top + 14)), np.int16)
    assert np.abs(decode(data, CROP) - expected).max() <= 1


def test_a_crop_fraction_of_a_thread_of_pixels_needs_little_memory() -> None:
    import tracemalloc

    data = picture_bytes(Image.new("RGB", (60_000, 4), (9, 9, 9)), "JPEG")
    tracemalloc.start()
    assert (decode(data, CROP) == 9).all()
    assert tracemalloc.get_traced_memory()[1] < 4 << 20  # bytes; enlarged as a whole it has 11 MB
    tracemalloc.stop()


def test_the_whole_square_is_written_as_before_the_field_existed() -> None:
    assert sorted(SPEC.to_dict()) == ["channels", "fidelity", "fit", "interpolation", "max_pixels", "size"]
    assert DecodeSpec.from_dict(SPEC.to_dict()) == SPEC
    assert CROP.to_dict()["crop_fraction"] == 0.875 and DecodeSpec.from_dict(CROP.to_dict()) == CROP


@pytest.mark.parametrize(("fit", "fraction"), [("pad", 0.9), ("stretch", 0.9), ("crop", 0.0), ("crop", 1.1)])
def test_a_crop_fraction_belongs_to_crop_and_is_a_fraction(fit: str, fraction: float) -> None:
    with pytest.raises(ValueError, match="crop_fraction must be"):
        DecodeSpec(14, 3, fit, "bicubic", 10**6, crop_fraction=fraction)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_stands_upright(orientation: int) -> None:
    upright = halves(32, 32)
    upright.paste((0, 255, 0), (0, 0, 32, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that stores it turned
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, plain = picture_bytes(stored, exif=exif), picture_bytes(upright)
    np.testing.assert_array_equal(decode(turned, SPEC), decode(plain, SPEC))


def test_damaged_exif_data_does_not_refuse_a_sound_picture() -> None:
    assert decode(picture_bytes(halves(), "JPEG", exif=b"Exif\x00\x00garbage"), SPEC).shape == (16, 16, 3)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.full((16, 16), 32896, np.uint16)
    assert set(np.unique(decode(picture_bytes(Image.fromarray(ramp)), SPEC))) == {128}


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(picture_bytes(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), SPEC)
    assert pixels[..., 0].min() > 240 and pixels[..., 1].max() < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_white(mode: str) -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0)).convert(mode)
    assert decode(picture_bytes(clear, "TIFF" if mode == "PA" else "PNG"), SPEC).min() == 255


def test_a_transparent_palette_entry_is_white() -> None:
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30] + [0, 0, 0] * 255)
    assert decode(picture_bytes(palette, transparency=0), SPEC).min() == 255


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = picture_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(decode(data, SPEC)[8, 8]) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_a_truncated_picture_is_rejected_with_its_reason(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = picture_bytes(noise, kind)
    assert reason_of(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize(
    ("data", "reason", "hint"),
    [
        (b"", "empty", "0 bytes"),
        (b"once upon a time\n", "not_an_image", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not_an_image", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "not_an_image", "web page"),
        (b"\x00" * 100, "not_an_image", "zeros"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41", "unsupported", "video"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(30), "unsupported", "JPEG XL"),
        (b"outs:\n- md5: " + 32 * b"0", "not_an_image", "dvc pull"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported", "SVG"),
    ],
)
def test_what_is_no_picture_is_told_apart(data: bytes, reason: str, hint: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(data, SPEC)
    assert caught.value.reason == reason and hint in caught.value.detail


def test_the_pixel_limit_is_judged_before_decoding() -> None:
    data = picture_bytes(Image.new("1", (1001, 1000)))
    assert reason_of(data[:60]) == "bomb"  # there are no pixels in these bytes, only the claim


def test_a_single_pixel_is_too_small() -> None:
    assert reason_of(picture_bytes(Image.new("RGB", (1, 1)))) == "too_small"


def test_the_header_tells_size_and_colour_without_pixels() -> None:
    header = read_image_header(picture_bytes(Image.new("L", (30, 20)))[:60], 10**6)
    assert (header.format, header.width, header.height, header.is_grey) == ("PNG", 30, 20, True)


def test_a_specification_survives_the_trip_through_a_dictionary() -> None:
    assert DecodeSpec.from_dict(SPEC.to_dict()) == SPEC
    with pytest.raises(ValueError, match="fit"):
        DecodeSpec.from_dict(SPEC.to_dict() | {"fit": "squeeze"})


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_way_for_jpeg_gives_pillows_pixels(monkeypatch: pytest.MonkeyPatch, fit: str, mode: str) -> None:
    cells = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
    photo = Image.fromarray(cells).resize((200, 151), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    spec = DecodeSpec(64, 3, fit, "bilinear", 10**6)
    for data in (picture_bytes(photo, "JPEG"), picture_bytes(photo, "JPEG", exif=exif, progressive=True)):
        fast, *sides = decode_module.decode_with_size(data, spec)
        with monkeypatch.context() as patch:
            patch.setattr(decode_module, "_decode_jpeg_into", lambda out, data, spec: None)
            slow, *slow_sides = decode_module.decode_with_size(data, spec)
        assert sides == slow_sides
        assert np.abs(fast.astype(int) - slow).mean() < 0.1 and np.abs(fast.astype(int) - slow).max() <= 2


def test_a_jpeg_of_the_right_size_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8))
    data, spec = picture_bytes(photo, "JPEG"), DecodeSpec(32, 3, "crop", "bilinear", 10**6)
    fast = decode(data, spec)
    monkeypatch.setattr(decode_module, "_decode_jpeg_into", lambda out, data, spec: None)
    np.testing.assert_array_equal(fast, decode(data, spec))


def test_fast_fidelity_lets_the_jpeg_decoder_scale() -> None:
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8))
    data = picture_bytes(photo.resize((800, 600), Image.Resampling.BICUBIC), "JPEG")
    exact, fast = (decode(data, DecodeSpec(32, 3, "stretch", "bilinear", 10**6, one)) for one in ("exact", "fast"))
    assert 0 < np.abs(exact.astype(int) - fast).mean() < 3
