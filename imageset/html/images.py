"""Encode arrays and figures as PNG or JPEG bytes for an HTML page."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def enlarge(image: np.ndarray, side_px: int) -> Image.Image:
    """uint8 (H, W, 1 or 3) -> a square of `side_px`; small pictures keep their pixels visible."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    way = Image.Resampling.NEAREST if max(picture.size) <= side_px else Image.Resampling.LANCZOS
    return picture.resize((side_px, side_px), way)


def encode_image(picture: Image.Image) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_figure(figure: "Figure") -> bytes:
    """PNG bytes of a figure, the same each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
