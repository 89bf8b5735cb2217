from __future__ import annotations

import io
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from imageset.decoding import bit_depth, decoder
from imageset.decoding.decoder import decode, decode_partial, read_image_header
from imageset.decoding.spec import DecodeSpec
from imageset.executors.limits import limit_memory
from imageset.executors.process_pool import ProcessExecutor
from imageset.rejections import Rejected

MAX_PIXELS = 178_956_970  # of the presets
SPEC = DecodeSpec(size=32, channels=3, fit="crop", interpolation="bilinear", max_pixels=MAX_PIXELS)
SIDE_PX = 13_300  # squared, just within MAX_PIXELS
REFUSED_BELOW_MB = 100


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(side_px: int, bits: int, colour_type: int, num_bytes: int, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", side_px, side_px, bits, colour_type, 0, 0, 0)
    rows = _chunk(b"IDAT", zlib.compress(bytes(num_bytes), 9))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + rows + _chunk(b"IEND", b"")


def _jpeg(frame: int) -> bytes:
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "JPEG", progressive=frame == 0xC2, subsampling=0)
    data = bytearray(small.getvalue())
    position = data.index(bytes([0xFF, frame])) + 5
    data[position : position + 4] = struct.pack(">HH", SIDE_PX, SIDE_PX)
    return bytes(data)


def _text(name: bytes) -> bytes:
    deflate = zlib.compressobj(9)
    zeros = b"".join([*(deflate.compress(bytes(1_000_000)) for _ in range(400)), deflate.flush()])
    return _png(64, 8, 2, 1000, _chunk(name, b"k\0\0" + zeros))


def _webp() -> bytes:
    size = (12_999 | 12_999 << 14).to_bytes(4, "little")
    return b"RIFF" + struct.pack("<I", 4096) + b"WEBPVP8L" + struct.pack("<I", 4084) + b"\x2f" + size + bytes(4079)


PALETTE = _chunk(b"PLTE", bytes(768)) + _chunk(b"tRNS", bytes(256))
BOMBS: dict[str, Callable[[], bytes]] = {
    "RGBA": partial(_png, SIDE_PX, 8, 6, 1000),
    "grey with alpha": partial(_png, SIDE_PX, 8, 4, 1000),
    "RGBA of 16 bits": partial(_png, 12_000, 16, 6, 1000),
    "progressive JPEG": partial(_jpeg, 0xC2),
    "WebP": _webp,
    "text of 400 MB": partial(_text, b"zTXt"),
    "profile of 400 MB": partial(_text, b"iCCP"),
}


def decode_and_measure(data: bytes) -> tuple[str, int]:
    """Return the reason why an image is refused, or "", and the memory in MB that it took at most."""
    limit_memory(MAX_PIXELS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decode(data, SPEC)
        reason = ""
    except Rejected as rejected:
        reason = str(rejected)
    return reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_its_pixels_take_memory(name: str) -> None:
    with ProcessExecutor(1) as pool:
        reason, used_mb = pool.submit(decode_and_measure, BOMBS[name]()).result()
    assert used_mb < REFUSED_BELOW_MB
    if name.endswith("MB"):
        assert reason.startswith("undecodable: PNG: ")
    else:
        assert reason.startswith("bomb: ") and "GB of memory to decode; the limit is 1.0 GB" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
def test_a_large_picture_with_a_palette_takes_five_bytes_a_pixel() -> None:
    side_px = 9_000
    data = _png(side_px, 1, 3, (1 + (side_px + 7) // 8) * side_px, PALETTE)
    with ProcessExecutor(1) as pool:
        reason, used_mb = pool.submit(decode_and_measure, data).result()
    assert (reason, used_mb < 5 * side_px**2 / 1e6 + REFUSED_BELOW_MB) == ("", True)


def test_the_message_names_the_limit_that_lets_the_picture_in() -> None:
    with pytest.raises(Rejected, match="set max_pixels to ") as refused:
        read_image_header(BOMBS["RGBA"](), MAX_PIXELS)
    enough = int(refused.value.detail.rpartition(" ")[2])
    assert read_image_header(BOMBS["RGBA"](), enough).width == SIDE_PX
    with pytest.raises(Rejected, match="GB of memory"):
        read_image_header(BOMBS["RGBA"](), enough - 10)


def test_a_baseline_jpeg_of_the_most_pixels_is_let_in() -> None:
    assert read_image_header(_jpeg(0xC0), MAX_PIXELS).width == SIDE_PX


def test_what_is_shown_of_a_damaged_picture_keeps_the_limit() -> None:
    with pytest.raises(Rejected, match="bomb"):
        decode_partial(BOMBS["grey with alpha"](), SPEC)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white_strip_by_strip_as_in_one_piece(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.info |= {"transparency": 3} if mode == "P" else {}
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    monkeypatch.setattr(decoder, "_PIXELS_AT_ONCE", 23 * 5)
    assert (np.asarray(decoder._composite_on_white(image)) == expected).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_many_bits_are_reduced_strip_by_strip_as_in_one_piece(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (37, 23)).astype(dtype)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    spec = DecodeSpec(23, 1, "stretch", "nearest", MAX_PIXELS, integer_max=4095, float_max=4095)
    whole = decode(file.getvalue(), spec)
    monkeypatch.setattr(bit_depth, "_PIXELS_AT_ONCE", 23 * 5)
    assert (decode(file.getvalue(), spec) == whole).all()
    expected, _ = bit_depth.scale_values(values, spec)
    assert (whole[0, :, 0] == expected[0]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
def test_a_worker_has_its_limit_beside_what_it_holds_already() -> None:
    with ProcessExecutor(1) as pool:
        before, after = pool.submit(_read_limits_with_ballast).result()
    assert after - before > 290_000_000


def _read_limits_with_ballast() -> tuple[int, int]:
    limit_memory(1)
    before = resource.getrlimit(resource.RLIMIT_DATA)[0]
    reserved = np.empty(300_000_000, np.uint8)  # never written to, so it takes no memory
    limit_memory(1)
    assert reserved.size
    return before, resource.getrlimit(resource.RLIMIT_DATA)[0]
