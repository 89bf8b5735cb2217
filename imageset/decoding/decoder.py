"""Bytes to pixels: the one decoder that training and prediction share.

The order is always: judge by the first bytes, read the header, judge the size, decode the first frame, turn by
EXIF, bring to 8 bits and to grey or RGB, crop or pad or stretch. What Pillow raises (OSError, ValueError,
SyntaxError, NotImplementedError and more) becomes `Rejected` with a reason code.

Colour profiles (ICC) are not applied: a pixel is the number that the file holds, as it is for torchvision, for
Pillow's own users and for the sets on which published weights were trained (docs/decisions/0007).

A sound JPEG takes a faster way to the same pixels (imageset.decoding.jpeg), and a faster resize (imageset.decoding.resize). Which
way a picture takes depends on its bytes and the DecodeSpec alone.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from importlib import import_module

import numpy as np
from PIL import Image, ImageFile, features

from imageset.decoding import jpeg, resize
from imageset.decoding.file_type import detect_format, is_truncated, read_webp_size
from imageset.decoding.spec import INTERPOLATIONS, MIN_SIDE_PX, DecodeSpec, ImageHeader
from imageset.rejections import Rejected
from imageset.utils.memory import reuse_buffer

# Raised whenever decoding gives other pixels, or another perceptual hash, for the same bytes: stores of an earlier
# decoder are not taken over.
DECODER_VERSION = 4

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
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

# Loaded by name where such a picture comes, not by Pillow's search through all that it has.
_PLUGINS: Mapping[str, str] = {
    "AVIF": "PIL.AvifImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
}

# Formats that not every installation decodes, and what to do about it.
_OPTIONAL_FEATURES: Mapping[str, tuple[str, str]] = {
    "AVIF": ("avif", "AVIF; this Pillow was built without it: install Pillow from PyPI, or convert it to JPEG"),
    "JPEG2000": ("jpg_2000", "JPEG 2000; this Pillow was built without it: install Pillow from PyPI"),
}


def read_image_header(data: bytes | memoryview, max_pixels: int) -> ImageHeader:
    """Read size and kind without decoding.

    Raises:
        Rejected: the header alone is reason enough to refuse the picture.
    """
    format_name = detect_format(data)
    try:
        if format_name == "JPEG" and (found := jpeg.read_jpeg_header(data)):
            _check_size(found.width, found.height, max_pixels)
            return ImageHeader(format_name, found.width, found.height, found.is_grey)
        data = bytes(data)
        picture = _open_image(data, format_name, max_pixels)
        return ImageHeader(format_name, *picture.size, is_grey=picture.mode in _GREY_MODES)
    except Rejected:
        raise
    except Exception as error:
        raise _to_rejected(error, bytes(data), format_name) from None


def decode(data: bytes | memoryview, spec: DecodeSpec) -> np.ndarray:
    """Return the picture as uint8 (H, W, C), C-contiguous.

    Raises:
        Rejected: the bytes are no picture that can be decoded whole; `.reason` is one of rejections.REASONS.
    """
    return decode_with_size(data, spec)[0]


def decode_with_size(data: bytes | memoryview, spec: DecodeSpec) -> tuple[np.ndarray, int, int]:
    """Like decode, and also the picture's own width and height in pixels, after the EXIF turn."""
    pixels = np.empty(spec.shape, np.uint8)
    return pixels, *decode_into(pixels, data, spec)


def decode_into(out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec) -> tuple[int, int]:
    """Decode into `out`, uint8 (H, W, C), C-contiguous; return the picture's own width and height as measure does.

    Raises:
        Rejected: as decode; `out` may hold anything then.
    """
    format_name = detect_format(data)
    try:
        if format_name == "JPEG" and (sides := _decode_jpeg_into(out, data, spec)):
            return sides
        data = bytes(data)
        picture = _open_image(data, format_name, spec.max_pixels)
        picture.load()
        picture = _apply_exif_orientation(picture)
        pixels = np.asarray(_fit_image(_to_eight_bits(picture, spec.channels), spec))
    except Rejected:
        raise
    except Exception as error:
        raise _to_rejected(error, bytes(data), format_name) from None
    out[:] = pixels.reshape(spec.shape)
    return picture.size


def decode_partial(data: bytes, spec: DecodeSpec) -> np.ndarray:
    """Like decode, but of a damaged or tiny picture what can be shown of it: for a person, never for a dataset.

    Raises:
        Rejected: nothing of it can be shown.
    """
    try:
        return decode(data, spec)
    except Rejected as rejected:
        if rejected.reason not in ("truncated", "undecodable", "too_small"):
            raise
    with _PARTIAL_DECODE_LOCK:  # Pillow keeps this setting for the whole process
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            picture = Image.open(io.BytesIO(data), formats=(detect_format(data),))
            if picture.width * picture.height > spec.max_pixels:
                raise Rejected("bomb")
            picture.load()
            pixels = np.asarray(_fit_image(_to_eight_bits(_apply_exif_orientation(picture), spec.channels), spec))
            return np.ascontiguousarray(pixels.reshape(spec.shape))
        except Exception as error:
            raise Rejected("undecodable", type(error).__name__) from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


_PARTIAL_DECODE_LOCK = threading.Lock()


def _open_image(data: bytes, format_name: str, max_pixels: int) -> Image.Image:
    _require_decoder(format_name)
    if format_name == "WEBP" and (size := read_webp_size(data)):
        _check_size(*size, max_pixels)
    picture = Image.open(io.BytesIO(data), formats=(format_name,))
    _check_size(*picture.size, max_pixels)
    return picture


def _require_decoder(format_name: str) -> None:
    feature, hint = _OPTIONAL_FEATURES.get(format_name, ("", ""))
    if feature and not features.check(feature):
        raise Rejected("unsupported", hint)
    if format_name == "HEIF":
        _register_heif()
    elif format_name in _PLUGINS:
        import_module(_PLUGINS[format_name])


def _register_heif() -> None:
    """Let Pillow know pillow-heif, here and not on import: only a process that meets a HEIC file pays for it."""
    if "HEIF" in Image.OPEN:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise Rejected("unsupported", "HEIC; to decode it: pip install 'convoy[heic]'") from None
    register_heif_opener()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Rejected("bomb", f"{width} x {height} pixels; the limit is {max_pixels:,}")
    if min(width, height) < MIN_SIDE_PX:
        raise Rejected("too_small", f"{width} x {height} pixels; at least {MIN_SIDE_PX} on a side are needed")


def _to_rejected(error: Exception, data: bytes, format_name: str) -> Rejected:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Rejected("bomb", detail)
    if isinstance(error, MemoryError):
        return Rejected("bomb", "decoding it needs more memory than there is")
    if isinstance(error, EOFError) or "truncat" in detail.lower() or is_truncated(data, format_name):
        return Rejected("truncated", f"{format_name} of {len(data):,} bytes that ends too early")
    if isinstance(error, Image.UnidentifiedImageError):
        detail = "the header is damaged"
    if isinstance(error, NotImplementedError):
        return Rejected("unsupported", f"{format_name}: {detail}")
    return Rejected("undecodable", f"{format_name}: {detail}")


def _apply_exif_orientation(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return picture
    turn = _TRANSPOSE_BY_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _to_eight_bits(picture: Image.Image, channels: int) -> Image.Image:
    """Any mode to "L" or "RGB"; what is transparent shows white, as on a page."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _scale_to_eight_bits(picture)
    elif picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = _composite_on_white(picture)
    return picture if picture.mode == mode else picture.convert(mode)


def _scale_to_eight_bits(picture: Image.Image) -> Image.Image:
    """16 bits by 1/257; whole and floating numbers by the range that holds them all: 0..1, 0..255 or 0..65535."""
    values = np.asarray(picture)
    if values.dtype.itemsize == 2:
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Rejected("undecodable", "holds numbers that are not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise Rejected("unsupported", f"values from {low:g} to {high:g}; 0 to 65535 can be shown")
    scale = 1 / 257
    if values.dtype.kind == "f" and high <= 255:
        scale = 255.0 if high <= 1 else 1.0
    return Image.fromarray(np.rint(values * scale).astype(np.uint8))


def _composite_on_white(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _fit_image(picture: Image.Image, spec: DecodeSpec) -> Image.Image:
    width, height = picture.size
    if spec.fit == "pad":
        return _pad_image(picture, spec)
    if spec.fit == "crop" and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return _resize_image(picture, spec.size, spec.size, spec)


def _pad_image(picture: Image.Image, spec: DecodeSpec) -> Image.Image:
    width, height = picture.size
    scale = spec.size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new(picture.mode, (spec.size, spec.size))
    canvas.paste(_resize_image(picture, *inner, spec), ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2))
    return canvas


def _resize_image(picture: Image.Image, width: int, height: int, spec: DecodeSpec) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), INTERPOLATIONS[spec.interpolation])


# ---- the fast way for JPEG -------------------------------------------------------------------------------------


def _decode_jpeg_into(out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec) -> tuple[int, int] | None:
    """What decode_into does, or None where Pillow must decide."""
    found = jpeg.read_jpeg_header(data)
    if found is None or (spec.channels == 1 and not found.is_grey):
        return None  # colour to grey costs more than the fast way saves
    width, height, grey, may_be_turned = found
    _check_size(width, height, spec.max_pixels)
    at_once = (height, width, 1 if grey else 3) == out.shape and not may_be_turned
    room = out if at_once else reuse_buffer(width * height * (1 if grey else 3))
    pixels = jpeg.decode_jpeg(data, grey, room, spec.size if spec.fidelity == "fast" else 0)
    if pixels is None:
        return None
    if at_once:
        return (width, height) if pixels.shape == out.shape else None
    if may_be_turned:
        orientation = jpeg.read_orientation(data)
        pixels = jpeg.apply_orientation(pixels, orientation)
        width, height = (height, width) if orientation >= 5 else (width, height)
    if pixels.shape[2] == spec.channels:
        _fit_pixels(pixels, spec, out)
    else:  # grey to colour
        _fit_pixels(pixels, spec, fitted := np.empty((*out.shape[:2], 1), np.uint8))
        out[:] = fitted
    return width, height


def _fit_pixels(pixels: np.ndarray, spec: DecodeSpec, out: np.ndarray) -> None:
    """_fit for (H, W, C) pixels; both cut and scale by the same whole numbers."""
    height, width = pixels.shape[:2]
    if spec.fit == "pad":
        scale = spec.size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2
        _resize_pixels(pixels, spec, resized := np.empty((inner[1], inner[0], pixels.shape[2]), np.uint8))
        out[:] = 0
        out[top : top + inner[1], left : left + inner[0]] = resized
        return
    if spec.fit == "crop" and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    _resize_pixels(pixels, spec, out)


def _resize_pixels(pixels: np.ndarray, spec: DecodeSpec, out: np.ndarray) -> None:
    height, width = out.shape[:2]
    if pixels.shape == out.shape:
        out[:] = pixels
    elif spec.interpolation in resize.RESIZE_MODES:
        resize.resize_antialiased(pixels, spec.interpolation, out)
    else:
        plane = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        resized = _resize_image(Image.fromarray(np.ascontiguousarray(plane)), width, height, spec)
        out[:] = np.asarray(resized).reshape(out.shape)
