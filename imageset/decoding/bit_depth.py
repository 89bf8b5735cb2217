"""Images of more than 8 bits a channel: the range of their values, and their conversion to 8 bits.

Cameras and scanners store 10, 12 or 14 bits in files of 16, and floating-point files hold 0 to 1 as well as 0 to
4,095. The range is decided once for a whole dataset, from the highest value of each image, and is part of the
DecodeSpec: with a range for each image a dark object would look like a bright one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from imageset.decoding.spec import DecodeSpec
from imageset.rejections import Rejected

MAX_INTEGER = 65_535
INTEGER_RANGES = (255, 1_023, 4_095, 16_383, MAX_INTEGER)  # of 8, 10, 12, 14 and 16 bits
FLOAT_RANGES = (1, *INTEGER_RANGES)
_OWN_FLOAT_RANGES = (1, 255, MAX_INTEGER)  # of an image without a dataset

# Pillow's names of pixels of 16 bits a channel, of which it keeps the high byte, and of the same pixels in the
# other byte order: with that name it keeps the low byte.
_OTHER_BYTE_ORDER: Mapping[str, str] = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
_PIXELS_AT_ONCE = 1 << 20  # in a strip
_GREY_WITH_ALPHA = "LA;16B"  # of a PNG; Pillow has no other byte order of it


class Peak(NamedTuple):
    """The highest value of an image of more than 8 bits a channel.

    Attributes:
        value: for colour it may be up to 255 too high, which changes no choice of a range.
        is_float: whether the image holds floating-point numbers.
    """

    value: float
    is_float: bool


def has_high_bit_depth(image: Image.Image) -> bool:
    """Return whether an image that is opened, but not loaded, has more than 8 bits a channel."""
    return is_single_channel(image) or bool(_find_raw_mode(image))


def is_single_channel(image: Image.Image) -> bool:
    """Return whether Pillow holds the values of an image of more than 8 bits as they are."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def reduce_to_eight_bits(
    image: Image.Image, open_again: Callable[[], Image.Image], spec: DecodeSpec
) -> tuple[Image.Image, Peak]:
    """Load an image of more than 8 bits a channel and scale it to 8 bits by the ranges of `spec`.

    Values beyond the range are clipped.

    Args:
        image: opened, but not loaded.
        open_again: opens the same image.
        spec: the decode parameters.

    Raises:
        Rejected: it holds values that have no grey level.
    """
    raw_mode = _find_raw_mode(image)
    if not raw_mode:
        image.load()
        return _scale_image(image, spec)
    image.load()
    high = max(int(band[1]) for band in image.getextrema()[:3])  # type: ignore[index]
    peak = Peak(high << 8 | 255, is_float=False)
    if spec.integer_max == MAX_INTEGER:
        return image, peak
    low_bytes = _open_low_bytes(open_again(), raw_mode)
    has_own_range = False
    if image.mode == "RGBA":  # transparency has a range of its own
        values_of_strips = _iter_values(image, low_bytes, raw_mode)
        has_own_range = any((values[..., 3] > spec.integer_max).any() for _, values in values_of_strips)
    for top, values in _iter_values(image, low_bytes, raw_mode):
        pixels = _build_table(spec.integer_max)[values]
        if has_own_range:
            pixels[..., 3] = values[..., 3] >> 8
        image.paste(Image.fromarray(pixels), (0, top))
    return image, peak


def scale_values(values: np.ndarray, spec: DecodeSpec) -> tuple[np.ndarray, Peak]:
    """Scale the values of one channel to uint8 by the ranges of `spec`; values beyond the range are clipped.

    Without a range for floating-point numbers, the smallest of 0..1, 0..255 and 0..65535 that contains all values
    of the image is taken.

    Raises:
        Rejected: a value is negative, not finite or beyond 65,535.
    """
    peak = _measure_peak([values])
    return _scale_strip(values, peak, spec), peak


def _scale_image(image: Image.Image, spec: DecodeSpec) -> tuple[Image.Image, Peak]:
    """Return a loaded image of one channel as "L", by strips: the numbers of all of it would take much memory."""
    peak = _measure_peak(values for _, values in iter_strips(image))
    grey = Image.new("L", image.size)
    for top, values in iter_strips(image):
        grey.paste(Image.fromarray(_scale_strip(values, peak, spec)), (0, top))
    return grey, peak


def _measure_peak(strips: Iterable[np.ndarray]) -> Peak:
    lows, highs, is_float = [], [], False
    for values in strips:
        is_float = values.dtype.kind == "f"
        if is_float and not np.isfinite(values).all():
            raise Rejected("undecodable", "holds numbers that are not finite")
        lows.append(float(values.min()))
        highs.append(float(values.max()))
    low, high = min(lows), max(highs)
    if low < 0 or high > MAX_INTEGER:
        raise Rejected("unsupported", f"values from {low:g} to {high:g}; 0 to 65535 can be shown")
    return Peak(high, is_float)


def _scale_strip(values: np.ndarray, peak: Peak, spec: DecodeSpec) -> np.ndarray:
    if not peak.is_float:
        return _build_table(spec.integer_max)[values.astype(np.uint16)]
    limit = get_range(spec, peak)
    return np.rint(np.minimum(values, limit) * (255 / limit)).astype(np.uint8)


def iter_strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the pixels, (rows, W) or (rows, W, C), of each strip of a loaded image."""
    num_rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, num_rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + num_rows, image.height))))


def check_range(peak: Peak, spec: DecodeSpec) -> None:
    """Raise Rejected if an image has values beyond the range of the dataset that `spec` belongs to."""
    limit = get_range(spec, peak)
    if peak.value > limit:
        raise Rejected(
            "unsupported",
            f"values up to {peak.value:,.7g}, but the pictures of the training set end at {limit:,}; "
            "give it the range of the others, or train with pictures like it",
        )


def choose_ranges(spec: DecodeSpec, peaks: Iterable[Peak]) -> DecodeSpec:
    """Return `spec` with the smallest ranges that contain all images, given their peaks."""
    highest: dict[bool, float] = {}
    for peak in peaks:
        highest[peak.is_float] = max(peak.value, highest.get(peak.is_float, 0))
    integer, floating = highest.get(False), highest.get(True)
    return replace(
        spec,
        integer_max=MAX_INTEGER if integer is None else find_range(integer, INTEGER_RANGES),
        float_max=None if floating is None else find_range(floating, FLOAT_RANGES),
    )


def get_range(spec: DecodeSpec, peak: Peak) -> int:
    """Return the range by which an image with this peak is read."""
    if not peak.is_float:
        return spec.integer_max
    return spec.float_max or find_range(peak.value, _OWN_FLOAT_RANGES)


def forget_ranges(spec: DecodeSpec) -> DecodeSpec:
    """Return `spec` with the ranges of the files' types."""
    return choose_ranges(spec, ())


def find_range(value: float, ranges: tuple[int, ...]) -> int:
    """Return the smallest of the ranges that contains a value."""
    return next((limit for limit in ranges if value <= limit), ranges[-1])


def describe_ranges(spec: DecodeSpec) -> list[str]:
    """Return a clause for each range that is not that of the files' type."""
    clauses = []
    if spec.integer_max < MAX_INTEGER:
        bits = spec.integer_max.bit_length()
        clauses.append(f"16-bit pictures hold {bits} bits: read with a range of {spec.integer_max:,}")
    if spec.float_max is not None:
        clauses.append(f"floating-point pictures are read with a range of {spec.float_max:,}")
    return clauses


@lru_cache(maxsize=8)
def _build_table(limit: int) -> np.ndarray:
    """Return uint8 (65536,): the grey level of each value."""
    values = np.minimum(np.arange(MAX_INTEGER + 1), limit)
    return ((values * 510 + limit) // (2 * limit)).astype(np.uint8)  # rounded; exact for every range


def _find_raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the pixels in the file if it keeps their high bytes only, else ""."""
    if image.format not in ("PNG", "TIFF") or image.mode not in ("RGB", "RGBA"):
        return ""
    modes = {_parse_raw_mode(tile.args) for tile in image.tile}  # type: ignore[attr-defined]
    mode = modes.pop() if len(modes) == 1 else ""
    return mode if mode in _OTHER_BYTE_ORDER or mode == _GREY_WITH_ALPHA else ""


def _parse_raw_mode(arguments: object) -> str:
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _iter_values(high: Image.Image, low: Image.Image, raw_mode: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the values, uint16 (rows, W, C), of each strip of an image, from its two bytes."""
    for (top, high_bytes), (_, low_bytes) in zip(iter_strips(high), iter_strips(low), strict=True):
        if raw_mode == _GREY_WITH_ALPHA:
            low_bytes = low_bytes[..., [1, 1, 1, 3]]
        yield top, high_bytes.astype(np.uint16) << 8 | low_bytes


def _open_low_bytes(image: Image.Image, raw_mode: str) -> Image.Image:
    """Load the low byte of every value."""
    other = "RGBA" if raw_mode == _GREY_WITH_ALPHA else _OTHER_BYTE_ORDER[raw_mode]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=_replace_raw_mode(tile.args, other))
        for tile in image.tile  # type: ignore[attr-defined]
    ]
    image.load()
    return image


def _replace_raw_mode(arguments: object, mode: str) -> object:
    return (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode
