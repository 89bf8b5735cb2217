"""The limits on an image's pixels, and on the memory that decoding them takes, judged by its header."""

from __future__ import annotations

import math

from PIL import Image

from imageset.decoding.bit_depth import has_high_bit_depth, is_single_channel
from imageset.decoding.spec import MIN_SIDE_PX
from imageset.rejections import Rejected
from imageset.utils.memory import BASE_MEMORY_BYTES, BYTES_PER_PIXEL, compute_memory_limit

# Bytes a pixel in Pillow, by the mode of the image; 4 in every other one.
_STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_GREY_BYTES, _CONVERTED_BYTES = 1, 4  # of 8 bits, and of RGB
# Bytes a pixel that a decoder holds beside Pillow's image, measured with images of 80 to 170 million pixels.
_DECODER_BYTES = {"AVIF": 7, "HEIF": 7, "JPEG2000": 17, "WEBP": 12}
_DICOM_BYTES = 40  # of floating-point numbers, their conversions and the file itself
_COEFFICIENT_BYTES = 2  # of each component of a progressive JPEG
_PROFILES_OF_ROTATED = ("exif", "xmp", "XML:com.adobe.xmp")
_TIFF_ORIENTATION, _TIFF_ROWS_PER_STRIP = 274, 278


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Check the number of pixels.

    Raises:
        Rejected: there are too many, or too few.
    """
    if width * height > max_pixels:
        raise Rejected("bomb", f"{width} x {height} pixels; the limit is {max_pixels:,}")
    if min(width, height) < MIN_SIDE_PX:
        raise Rejected("too_small", f"{width} x {height} pixels; at least {MIN_SIDE_PX} on a side are needed")


def check_image_memory(image: Image.Image, format_name: str, max_pixels: int) -> None:
    """Check the memory that an opened image takes until it has been cropped and converted to RGB.

    Raises:
        Rejected: it is too much.
    """
    stored, decoder_bytes, may_be_rotated = _STORED_BYTES.get(image.mode, 4), 0.0, _may_be_rotated(image)
    if format_name == "TIFF":
        decoder_bytes = stored * min(1.0, _read_tiff_tag(image, _TIFF_ROWS_PER_STRIP, image.height) / image.height)
    elif image.info.get("progressive"):
        decoder_bytes = _COEFFICIENT_BYTES * len(image.getbands())
    else:
        decoder_bytes = _DECODER_BYTES.get(format_name, 0)
    loaded = stored
    if is_single_channel(image):
        loaded = _GREY_BYTES
        decoder_bytes = max(decoder_bytes, loaded)
    elif has_high_bit_depth(image):
        decoder_bytes = max(decoder_bytes, stored)  # the low bytes are an image of their own
    is_converted = image.mode not in ("L", "RGB") or "transparency" in image.info
    copied = max(
        loaded if may_be_rotated else 0,
        _CONVERTED_BYTES if is_converted else 0,
        loaded * measure_crop(*image.size),
    )
    check_memory(*image.size, max(stored + decoder_bytes, loaded + copied), max_pixels)


def _may_be_rotated(image: Image.Image) -> bool:
    if image.format == "TIFF":
        return _read_tiff_tag(image, _TIFF_ORIENTATION, 1) != 1
    return any(name in image.info for name in _PROFILES_OF_ROTATED)


def _read_tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    value = image.tag_v2.get(tag, default)  # type: ignore[attr-defined]
    return value if isinstance(value, int) else default


def check_jpeg_memory(
    width: int, height: int, channels: int, max_pixels: int, *, may_be_rotated: bool, is_progressive: bool
) -> None:
    """Check the memory that the fast path for JPEG takes.

    Raises:
        Rejected: it is too much.
    """
    coefficients = _COEFFICIENT_BYTES * channels if is_progressive else 0
    copied = channels * (1 if may_be_rotated else measure_crop(width, height))
    check_memory(width, height, channels + max(coefficients, copied), max_pixels)


def check_dicom_memory(width: int, height: int, max_pixels: int) -> None:
    """Check the memory that a DICOM image takes.

    Raises:
        Rejected: it is too much.
    """
    check_memory(width, height, _DICOM_BYTES, max_pixels)


def check_webp_memory(width: int, height: int, max_pixels: int) -> None:
    """Check the memory that a WebP takes as soon as it is opened.

    Raises:
        Rejected: it is too much.
    """
    check_memory(width, height, 4 + _DECODER_BYTES["WEBP"], max_pixels)


def measure_crop(width: int, height: int) -> float:
    """Return the part of the pixels that the central square holds; 0 if it is the image itself, and not copied."""
    return 0 if width == height else min(width, height) / max(width, height)


def check_memory(width: int, height: int, bytes_per_pixel: float, max_pixels: int) -> None:
    """Check that an image fits into the memory of a worker.

    Raises:
        Rejected: it does not.
    """
    needed = int(width * height * bytes_per_pixel) + BASE_MEMORY_BYTES
    if needed > (limit := compute_memory_limit(max_pixels)):
        raise Rejected(
            "bomb",
            f"{width} x {height} pixels take {needed / 1e9:,.1f} GB of memory to decode; the limit is "
            f"{limit / 1e9:,.1f} GB, make it smaller or set max_pixels to {math.ceil(needed / BYTES_PER_PIXEL)}",
        )
