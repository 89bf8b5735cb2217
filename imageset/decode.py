"""Bytes to pixels: the one decoder that training and prediction share.

The order is always: judge by the first bytes, read the header, judge the size, decode the first frame, turn by
EXIF, bring to 8 bits and to grey or RGB, crop or pad or stretch. What Pillow raises (OSError, ValueError,
SyntaxError, NotImplementedError and more) becomes `Rejected` with a reason code.

Colour profiles (ICC) are not applied: a pixel is the number that the file holds, as it is for torchvision, for
Pillow's own users and for the sets on which published weights were trained (docs/decisions/0007).

A sound JPEG takes a faster way to the same pixels (imageset.jpeg), and a faster resize (imageset.resize). Which
way a picture takes depends on its bytes and the DecodeSpec alone.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image, ImageFile, features

from imageset import jpeg, resize
from imageset.memory import room_for
from imageset.quality import Rejected
from imageset.sniff import is_cut, sniff, webp_size

__all__ = ["DecodeSpec", "Header", "Rejected", "decode", "decode_into", "measure", "read_header"]

# Raised whenever decoding gives other pixels, or another perceptual hash, for the same bytes: stores of an earlier
# decoder are not taken over.
DECODER_VERSION = 4

# Fewer pixels than this on a side show nothing; single-pixel placeholders of the web are 1 x 1.
MIN_SIDE_PX = 4

AUTO_SIZES_PX = (32, 64, 96, 128)  # of which one is chosen where the size is to follow the pictures
FITS = ("crop", "pad", "stretch")
FIDELITIES = ("exact", "fast")
INTERPOLATIONS: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_TURN_OF_ORIENTATION: Mapping[int, Image.Transpose] = {
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
_PILLOWS_OWN: Mapping[str, tuple[str, str]] = {
    "AVIF": ("avif", "AVIF; this Pillow was built without it: install Pillow from PyPI, or convert it to JPEG"),
    "JPEG2000": ("jpg_2000", "JPEG 2000; this Pillow was built without it: install Pillow from PyPI"),
}


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """What every picture is brought to; a store and a model carry theirs with them.

    Attributes:
        size: side of the square result in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: "crop" (short side to size, middle kept), "pad" (long side to size, black around) or "stretch".
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; antialiased, except nearest.
        max_pixels: a picture whose header announces more is refused before it is decoded.
        fidelity: "exact" (every pixel is decoded, and resized antialiased) or "fast" (a JPEG may be scaled down by
            its decoder first, to no less than twice the size).
    """

    size: int
    channels: int
    fit: str
    interpolation: str
    max_pixels: int
    fidelity: str = "exact"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise ValueError(f"size must be 1 to 4096 px, not {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, not {self.fit!r}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation must be one of {known}, not {self.interpolation!r}")
        if self.fidelity not in FIDELITIES:
            raise ValueError(f"fidelity must be one of {', '.join(FIDELITIES)}, not {self.fidelity!r}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be positive, not {self.max_pixels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every decoded picture."""
        return self.size, self.size, self.channels

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecodeSpec:
        """The inverse of to_dict.

        Raises:
            ValueError: a key is missing or unknown, or a value out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a decode specification: {error}") from None


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture's header announces; width and height in pixels as stored, before any EXIF turn."""

    format: str
    width: int
    height: int
    grey: bool


def read_header(data: bytes | memoryview, max_pixels: int) -> Header:
    """Read size and kind without decoding.

    Raises:
        Rejected: the header alone is reason enough to refuse the picture.
    """
    format_name = sniff(data)
    try:
        if format_name == "JPEG" and (found := jpeg.jpeg_header(data)):
            _judge_size(found.width, found.height, max_pixels)
            return Header(format_name, found.width, found.height, found.grey)
        data = bytes(data)
        picture = _open(data, format_name, max_pixels)
        return Header(format_name, *picture.size, grey=picture.mode in _GREY_MODES)
    except Rejected:
        raise
    except Exception as error:
        raise _refusal(error, bytes(data), format_name) from None


def decode(data: bytes | memoryview, spec: DecodeSpec) -> np.ndarray:
    """Return the picture as uint8 (H, W, C), C-contiguous.

    Raises:
        Rejected: the bytes are no picture that can be decoded whole; `.reason` is one of quality.REASONS.
    """
    return measure(data, spec)[0]


def measure(data: bytes | memoryview, spec: DecodeSpec) -> tuple[np.ndarray, int, int]:
    """Like decode, and also the picture's own width and height in pixels, after the EXIF turn."""
    pixels = np.empty(spec.shape, np.uint8)
    return pixels, *decode_into(pixels, data, spec)


def decode_into(out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec) -> tuple[int, int]:
    """Decode into `out`, uint8 (H, W, C), C-contiguous; return the picture's own width and height as measure does.

    Raises:
        Rejected: as decode; `out` may hold anything then.
    """
    format_name = sniff(data)
    try:
        if format_name == "JPEG" and (sides := _decode_jpeg_into(out, data, spec)):
            return sides
        data = bytes(data)
        picture = _open(data, format_name, spec.max_pixels)
        picture.load()
        picture = _upright(picture)
        pixels = np.asarray(_fit(_eight_bits(picture, spec.channels), spec))
    except Rejected:
        raise
    except Exception as error:
        raise _refusal(error, bytes(data), format_name) from None
    out[:] = pixels.reshape(spec.shape)
    return picture.size


def salvage(data: bytes, spec: DecodeSpec) -> np.ndarray:
    """Like decode, but of a damaged or tiny picture what can be shown of it: for a person, never for a dataset.

    Raises:
        Rejected: nothing of it can be shown.
    """
    try:
        return decode(data, spec)
    except Rejected as rejected:
        if rejected.reason not in ("truncated", "undecodable", "too_small"):
            raise
    with _SALVAGING:  # Pillow keeps this setting for the whole process
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            picture = Image.open(io.BytesIO(data), formats=(sniff(data),))
            if picture.width * picture.height > spec.max_pixels:
                raise Rejected("bomb")
            picture.load()
            pixels = np.asarray(_fit(_eight_bits(_upright(picture), spec.channels), spec))
            return np.ascontiguousarray(pixels.reshape(spec.shape))
        except Exception as error:
            raise Rejected("undecodable", type(error).__name__) from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


_SALVAGING = threading.Lock()


def _open(data: bytes, format_name: str, max_pixels: int) -> Image.Image:
    _need_decoder(format_name)
    if format_name == "WEBP" and (size := webp_size(data)):
        _judge_size(*size, max_pixels)
    picture = Image.open(io.BytesIO(data), formats=(format_name,))
    _judge_size(*picture.size, max_pixels)
    return picture


def _need_decoder(format_name: str) -> None:
    feature, hint = _PILLOWS_OWN.get(format_name, ("", ""))
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


def _judge_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Rejected("bomb", f"{width} x {height} pixels; the limit is {max_pixels:,}")
    if min(width, height) < MIN_SIDE_PX:
        raise Rejected("too_small", f"{width} x {height} pixels; at least {MIN_SIDE_PX} on a side are needed")


def _refusal(error: Exception, data: bytes, format_name: str) -> Rejected:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Rejected("bomb", detail)
    if isinstance(error, MemoryError):
        return Rejected("bomb", "decoding it needs more memory than there is")
    if isinstance(error, EOFError) or "truncat" in detail.lower() or is_cut(data, format_name):
        return Rejected("truncated", f"{format_name} of {len(data):,} bytes that ends too early")
    if isinstance(error, Image.UnidentifiedImageError):
        detail = "the header is damaged"
    if isinstance(error, NotImplementedError):
        return Rejected("unsupported", f"{format_name}: {detail}")
    return Rejected("undecodable", f"{format_name}: {detail}")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return picture
    turn = _TURN_OF_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _eight_bits(picture: Image.Image, channels: int) -> Image.Image:
    """Any mode to "L" or "RGB"; what is transparent shows white, as on a page."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _scaled_to_eight_bits(picture)
    elif picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = _on_white(picture)
    return picture if picture.mode == mode else picture.convert(mode)


def _scaled_to_eight_bits(picture: Image.Image) -> Image.Image:
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


def _on_white(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _fit(picture: Image.Image, spec: DecodeSpec) -> Image.Image:
    width, height = picture.size
    if spec.fit == "pad":
        return _padded(picture, spec)
    if spec.fit == "crop" and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return _resized(picture, spec.size, spec.size, spec)


def _padded(picture: Image.Image, spec: DecodeSpec) -> Image.Image:
    width, height = picture.size
    scale = spec.size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new(picture.mode, (spec.size, spec.size))
    canvas.paste(_resized(picture, *inner, spec), ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2))
    return canvas


def _resized(picture: Image.Image, width: int, height: int, spec: DecodeSpec) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), INTERPOLATIONS[spec.interpolation])


# ---- the fast way for JPEG -------------------------------------------------------------------------------------


def _decode_jpeg_into(out: np.ndarray, data: bytes | memoryview, spec: DecodeSpec) -> tuple[int, int] | None:
    """What decode_into does, or None where Pillow must decide."""
    found = jpeg.jpeg_header(data)
    if found is None or (spec.channels == 1 and not found.grey):
        return None  # colour to grey costs more than the fast way saves
    width, height, grey, may_be_turned = found
    _judge_size(width, height, spec.max_pixels)
    at_once = (height, width, 1 if grey else 3) == out.shape and not may_be_turned
    room = out if at_once else room_for(width * height * (1 if grey else 3))
    pixels = jpeg.decode_jpeg(data, grey, room, spec.size if spec.fidelity == "fast" else 0)
    if pixels is None:
        return None
    if at_once:
        return (width, height) if pixels.shape == out.shape else None
    if may_be_turned:
        orientation = jpeg.orientation_of(data)
        pixels = jpeg.turned(pixels, orientation)
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
    elif spec.interpolation in resize.MODES:
        resize.resize(pixels, spec.interpolation, out)
    else:
        plane = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        resized = _resized(Image.fromarray(np.ascontiguousarray(plane)), width, height, spec)
        out[:] = np.asarray(resized).reshape(out.shape)
