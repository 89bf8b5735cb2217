"""The image decoder, from bytes to pixels; training and prediction share it.

The order is always: detect the format by the first bytes, read the header, check the size, decode the first frame,
convert to 8 bits, apply the EXIF orientation, convert to grey or RGB, crop, pad or stretch. Exceptions of Pillow
(OSError, ValueError, SyntaxError, NotImplementedError and more) become `Rejected` with a reason code.

Colour profiles (ICC) are not applied: a pixel is the number in the file, as in torchvision, in Pillow and in the
datasets on which published weights were trained (docs/decisions/0007).

A sound JPEG takes a faster path to the same pixels (imageset.decoding.jpeg) and a faster resize
(imageset.decoding.resize). The path depends only on the bytes of the image and on the DecodeSpec.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

import numpy as np
from PIL import Image, ImageFile, features

from imageset.decoding import dicom, jpeg
from imageset.decoding.bit_depth import Peak, check_range, has_high_bit_depth, reduce_to_eight_bits
from imageset.decoding.file_type import detect_format, is_truncated, read_webp_size
from imageset.decoding.fit import crop_image, fit_pixels, resize_fitting
from imageset.decoding.size_limits import (
    check_dicom_memory,
    check_image_memory,
    check_jpeg_memory,
    check_size,
    check_webp_memory,
)
from imageset.decoding.spec import DecodeSpec, ImageHeader
from imageset.rejections import Rejected
from imageset.utils.memory import reuse_buffer

# Incremented whenever the same bytes give different pixels or a different perceptual hash: datasets of an earlier
# version are not reused.
DECODER_VERSION = 5

_TRANSPOSE_BY_ORIENTATION: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_MODES_BY_WAY_OF_RGB = frozenset({"LAB", "HSV"})  # Pillow cannot convert them to grey
_YCBCR = 6  # TIFF's number of the photometric interpretation
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

# Pillow's plugins, loaded by name when an image needs them: Pillow itself would import every plugin.
_PLUGINS: Mapping[str, str] = {
    "AVIF": "PIL.AvifImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
}

# Formats that some builds of Pillow lack: the name of the feature, and the hint for the user.
_OPTIONAL_FEATURES: Mapping[str, tuple[str, str]] = {
    "AVIF": ("avif", "AVIF; this Pillow was built without it: install Pillow from PyPI, or convert it to JPEG"),
    "JPEG2000": ("jpg_2000", "JPEG 2000; this Pillow was built without it: install Pillow from PyPI"),
}

_PIXELS_AT_ONCE = 1 << 20  # in a strip

_PARTIAL_DECODE_LOCK = threading.Lock()


def read_image_header(data: bytes | memoryview, max_pixels: int) -> ImageHeader:
    """Read the format, the size and the colour mode of an image without decoding it.

    Args:
        data: the bytes of the file.
        max_pixels: the largest number of pixels that is accepted.

    Raises:
        Rejected: the header alone is enough to reject the image.
    """
    format_name = detect_format(data)
    try:
        if format_name == "JPEG" and (header := jpeg.read_jpeg_header(data)):
            _check_jpeg(header, 1 if header.is_grey else 3, max_pixels)
            return ImageHeader(format_name, header.width, header.height, header.is_grey)
        data = bytes(data)
        if format_name == "DICOM":
            dicom_header = dicom.read_dicom_header(data)
            check_size(dicom_header.width, dicom_header.height, max_pixels)
            check_dicom_memory(dicom_header.width, dicom_header.height, max_pixels)
            return dicom_header
        image = _open_image(data, format_name, max_pixels)
        return ImageHeader(format_name, *image.size, is_grey=image.mode in _GREY_MODES)
    except Rejected:
        raise
    except Exception as error:
        raise _to_rejected(error, bytes(data), format_name) from None


def decode(data: bytes | memoryview, spec: DecodeSpec) -> np.ndarray:
    """Return the image as uint8 (H, W, C), C-contiguous.

    Raises:
        Rejected: the image cannot be decoded completely; `.reason` is one of rejections.REASONS.
    """
    return decode_with_size(data, spec)[0]


def decode_with_size(data: bytes | memoryview, spec: DecodeSpec) -> tuple[np.ndarray, int, int]:
    """Return the image as `decode` does, with its original width and height in pixels.

    Width and height are those after the EXIF orientation is applied.

    Raises:
        Rejected: as in `decode`.
    """
    pixels = np.empty(spec.shape, np.uint8)
    return pixels, *decode_into(pixels, data, spec)


def decode_into(out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec) -> tuple[int, int]:
    """Decode into an array and return the original width and height of the image in pixels.

    Args:
        out: uint8 (H, W, C), C-contiguous, filled with the pixels.
        data: the bytes of the file.
        spec: the decode parameters.

    Returns:
        (width, height) after the EXIF orientation is applied.

    Raises:
        Rejected: as in `decode`; the content of `out` is then undefined.
    """
    width, height, peak = decode_clipped_into(out, data, spec)
    if peak is not None:
        check_range(peak, spec)
    return width, height


def decode_clipped_into(
    out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec
) -> tuple[int, int, Peak | None]:
    """Decode as `decode_into` does, but clip the values of an image that are beyond the ranges of `spec`.

    Returns:
        (width, height, the highest value of an image of more than 8 bits a channel, else None).

    Raises:
        Rejected: as in `decode`; the content of `out` is then undefined.
    """
    format_name = detect_format(data)
    try:
        if format_name == "JPEG" and (size := _decode_jpeg_into(out, data, spec)):
            return *size, None
        data = bytes(data)
        if format_name == "DICOM":
            read_image_header(data, spec.max_pixels)  # refuses one that is too large
            image, peak = dicom.decode_dicom(data, spec)
        else:
            open_image = partial(_open_image, data, format_name, spec.max_pixels)
            image, peak = _load_eight_bits(open_image(), open_image, spec)
        width, height = image.size
        image = crop_image(image, spec)  # under the same name, so that the whole image takes no memory any more
        pixels = np.asarray(resize_fitting(_convert_colours(image, spec.channels), spec))
    except Rejected:
        raise
    except Exception as error:
        raise _to_rejected(error, bytes(data), format_name) from None
    out[:] = pixels.reshape(spec.shape)
    return width, height, peak


def decode_partial(data: bytes, spec: DecodeSpec) -> np.ndarray:
    """Return as much of a damaged or very small image as can be decoded, as uint8 (H, W, C).

    The result is shown to people and never written into a dataset.

    Raises:
        Rejected: no part of the image can be decoded.
    """
    try:
        return decode(data, spec)
    except Rejected as rejected:
        if rejected.reason not in ("truncated", "undecodable", "too_small"):
            raise
    with _PARTIAL_DECODE_LOCK:  # the setting of Pillow holds for the whole process
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            format_name = detect_format(data)
            _require_decoder(format_name)
            opened = _open_without_checks(data, format_name)
            if opened.width * opened.height > spec.max_pixels:
                raise Rejected("bomb")
            check_image_memory(opened, format_name, spec.max_pixels)
            image, _ = _load_eight_bits(opened, partial(_open_without_checks, data, format_name), spec)
            image = crop_image(image, spec)
            pixels = np.asarray(resize_fitting(_convert_colours(image, spec.channels), spec))
            return np.ascontiguousarray(pixels.reshape(spec.shape))
        except Exception as error:
            raise Rejected("undecodable", type(error).__name__) from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _open_image(data: bytes, format_name: str, max_pixels: int) -> Image.Image:
    _require_decoder(format_name)
    if format_name == "WEBP" and (size := read_webp_size(data)):
        check_size(*size, max_pixels)
        check_webp_memory(*size, max_pixels)
    image = _open_without_checks(data, format_name)
    check_size(*image.size, max_pixels)
    check_image_memory(image, format_name, max_pixels)
    if format_name == "TIFF" and image.info.get("compression") == "raw" and image.tag_v2.get(262) == _YCBCR:  # type: ignore[attr-defined]
        raise Rejected("unsupported", "TIFF of YCbCr without compression; convert the picture to RGB")
    return image


def _open_without_checks(data: bytes, format_name: str) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=(format_name,))


def _require_decoder(format_name: str) -> None:
    feature, hint = _OPTIONAL_FEATURES.get(format_name, ("", ""))
    if feature and not features.check(feature):
        raise Rejected("unsupported", hint)
    if format_name == "HEIF":
        _register_heif()
    elif format_name in _PLUGINS:
        import_module(_PLUGINS[format_name])


def _register_heif() -> None:
    """Register pillow-heif with Pillow; called only for a HEIC file, so that other processes do not load it."""
    if "HEIF" in Image.OPEN:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise Rejected("unsupported", "HEIC; to decode it: pip install pillow-heif") from None
    register_heif_opener()


def _to_rejected(error: Exception, data: bytes, format_name: str) -> Rejected:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Rejected("bomb", detail)
    if isinstance(error, MemoryError):
        return Rejected("bomb", "decoding it takes more memory than a worker may use; make it smaller")
    if isinstance(error, EOFError) or "truncat" in detail.lower() or is_truncated(data, format_name):
        return Rejected("truncated", f"{format_name} of {len(data):,} bytes that ends too early")
    if isinstance(error, Image.UnidentifiedImageError):
        detail = "the header is damaged"
    if isinstance(error, NotImplementedError):
        return Rejected("unsupported", f"{format_name}: {detail}")
    return Rejected("undecodable", f"{format_name}: {detail}")


def _load_eight_bits(
    image: Image.Image, open_again: Callable[[], Image.Image], spec: DecodeSpec
) -> tuple[Image.Image, Peak | None]:
    """Load an opened image with 8 bits a channel, upright.

    Returns:
        (the image, its highest value if it has more than 8 bits a channel, else None).
    """
    loaded, peak = image, None
    if has_high_bit_depth(image):
        loaded, peak = reduce_to_eight_bits(image, open_again, spec)
    else:
        image.load()
    return _apply_orientation(loaded, _read_orientation(image)), peak


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image: in a PNG it may follow the pixels."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data does not mean damaged pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE_BY_ORIENTATION.get(orientation)
    return image if method is None else image.transpose(method)


def _convert_colours(image: Image.Image, channels: int) -> Image.Image:
    """Convert any mode of 8 bits to "L" or "RGB"; transparent pixels become white."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _composite_on_white(image)
    if image.mode == mode:
        return image
    try:
        return (image.convert("RGB") if image.mode in _MODES_BY_WAY_OF_RGB else image).convert(mode)
    except ValueError:
        raise Rejected("unsupported", f"colours in the mode {image.mode}; convert the picture to RGB") from None


def _composite_on_white(image: Image.Image) -> Image.Image:
    """Composite an image on white, by strips: copies of all of it would take much memory."""
    result = Image.new("RGB", image.size)
    num_rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, num_rows):
        strip = image.crop((0, top, image.width, min(top + num_rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        result.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return result


# ---- the fast path for JPEG ------------------------------------------------------------------------------------


def _decode_jpeg_into(out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec) -> tuple[int, int] | None:
    """Decode a JPEG as `decode_into` does; return None if Pillow has to decode it."""
    header = jpeg.read_jpeg_header(data)
    if header is None or (spec.channels == 1 and not header.is_grey):
        return None  # converting colour to grey costs more than the fast path saves
    width, height, grey, may_be_rotated, _ = header
    _check_jpeg(header, 1 if grey else 3, spec.max_pixels)
    in_place = (height, width, 1 if grey else 3) == out.shape and not may_be_rotated and spec.crop_fraction == 1
    buffer = out if in_place else reuse_buffer(width * height * (1 if grey else 3))
    pixels = jpeg.decode_jpeg(data, grey, buffer, spec.short_side_px if spec.fidelity == "fast" else 0)
    if pixels is None:
        return None
    if in_place:
        return (width, height) if pixels.shape == out.shape else None
    if may_be_rotated:
        orientation = jpeg.read_orientation(data)
        pixels = jpeg.apply_orientation(pixels, orientation)
        width, height = (height, width) if orientation >= 5 else (width, height)
    if pixels.shape[2] == spec.channels:
        fit_pixels(pixels, spec, out)
    else:  # grey to colour
        fit_pixels(pixels, spec, fitted := np.empty((*out.shape[:2], 1), np.uint8))
        out[:] = fitted
    return width, height


def _check_jpeg(header: jpeg.JpegHeader, channels: int, max_pixels: int) -> None:
    check_size(header.width, header.height, max_pixels)
    check_jpeg_memory(
        *(header.width, header.height, channels, max_pixels),
        may_be_rotated=header.may_be_rotated,
        is_progressive=header.is_progressive,
    )
