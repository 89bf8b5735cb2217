"""Encode images and figures as PNG bytes for a page."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JPEG_QUALITY = 88


def enlarge(pixels: np.ndarray, side_px: int) -> Image.Image:
    """Resize uint8 (H, W, 1 or 3) to a square of `side_px`; the pixels of a small image stay visible."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    resampling = Image.Resampling.NEAREST if max(image.size) <= side_px else Image.Resampling.LANCZOS
    return image.resize((side_px, side_px), resampling)


def encode_image(image: Image.Image) -> bytes:
    """Encode an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_compact(png: bytes) -> bytes:
    """Return an image as JPEG where that takes less than half of the bytes of its PNG file, else the PNG file."""
    with Image.open(io.BytesIO(png)) as image:
        if image.mode not in ("L", "RGB"):
            return png
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue() if 2 * buffer.tell() < len(png) else png


def encode_figure(figure: "Figure") -> bytes:
    """Encode a figure as the bytes of a PNG file, without a time stamp."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
