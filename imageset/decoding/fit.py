"""The fit of an image into the square of the result: crop, pad or stretch, then resize.

An image of Pillow and the pixels of the fast path for JPEG take the same integer offsets and sizes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from imageset.decoding import resize
from imageset.decoding.spec import INTERPOLATIONS, DecodeSpec


def crop_image(image: Image.Image, spec: DecodeSpec) -> Image.Image:
    """Cut off what the result does not show, before the rest is converted."""
    width, height = image.size
    box = (0, 0, width, height)
    if spec.crop_fraction < 1:
        box = _limit_long_side(width, height)
    elif spec.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    return image if box == (0, 0, width, height) else image.crop(box)


def resize_fitting(image: Image.Image, spec: DecodeSpec) -> Image.Image:
    """Resize a cropped image to the size of the result."""
    if spec.fit == "pad":
        return _pad_image(image, spec)
    if spec.crop_fraction < 1:
        return _crop_fraction(image, spec)
    return _resize_image(image, spec.size, spec.size, spec)


def _crop_fraction(image: Image.Image, spec: DecodeSpec) -> Image.Image:
    """Resize the short side, then keep the central square, as published networks are evaluated."""
    image = _resize_image(image, *_scale_short_side(*image.size, spec), spec)
    left, top = (image.width - spec.size) // 2, (image.height - spec.size) // 2
    return image.crop((left, top, left + spec.size, top + spec.size))


def _limit_long_side(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the central box (left, top, right, bottom) whose long side is at most twice the short one.

    A panorama of 4 x 100,000 pixels would otherwise fill the memory when its short side is enlarged.
    """
    limit = 2 * min(width, height)
    left, top = max(0, width - limit) // 2, max(0, height - limit) // 2
    return left, top, left + min(width, limit), top + min(height, limit)


def _scale_short_side(width: int, height: int, spec: DecodeSpec) -> tuple[int, int]:
    """Return the width and height at which the short side is `spec.short_side_px`."""
    scale = spec.short_side_px / min(width, height)
    return round(width * scale), round(height * scale)


def _pad_image(image: Image.Image, spec: DecodeSpec) -> Image.Image:
    width, height = image.size
    scale = spec.size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new(image.mode, (spec.size, spec.size))
    canvas.paste(_resize_image(image, *inner, spec), ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2))
    return canvas


def _resize_image(image: Image.Image, width: int, height: int, spec: DecodeSpec) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), INTERPOLATIONS[spec.interpolation])


# ---- pixels of the fast path for JPEG --------------------------------------------------------------------------


def fit_pixels(pixels: np.ndarray, spec: DecodeSpec, out: np.ndarray) -> None:
    """Fit (H, W, C) pixels into `out` as `crop_image` and `resize_fitting` do, with the same offsets and sizes."""
    height, width = pixels.shape[:2]
    if spec.fit == "pad":
        scale = spec.size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2
        _resize_pixels(pixels, spec, resized := np.empty((inner[1], inner[0], pixels.shape[2]), np.uint8))
        out[:] = 0
        out[top : top + inner[1], left : left + inner[0]] = resized
        return
    if spec.crop_fraction < 1:
        _crop_fraction_of_pixels(pixels, spec, out)
        return
    if spec.fit == "crop" and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    _resize_pixels(pixels, spec, out)


def _crop_fraction_of_pixels(pixels: np.ndarray, spec: DecodeSpec, out: np.ndarray) -> None:
    """Fit (H, W, C) pixels into `out` as `_crop_fraction` does."""
    left, top, right, bottom = _limit_long_side(pixels.shape[1], pixels.shape[0])
    pixels = pixels[top:bottom, left:right]
    width, height = _scale_short_side(pixels.shape[1], pixels.shape[0], spec)
    _resize_pixels(pixels, spec, resized := np.empty((height, width, pixels.shape[2]), np.uint8))
    left, top = (width - spec.size) // 2, (height - spec.size) // 2
    out[:] = resized[top : top + spec.size, left : left + spec.size]


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
