"""Arrays as pictures: feature maps, filters and heat, as PNG without time stamps."""

import numpy as np
from PIL import Image

from imageset.html.images import encode_figure, encode_image, enlarge

TILES_PER_ROW, GAP_PX = 8, 6
TILE_PX = 56
IMAGE_PX = 192


def draw_feature_maps(maps: np.ndarray, most: int, signed: bool) -> bytes:
    """The first `most` feature maps of a layer, float (C, H, W), at one scale.

    Signed: grey is 0, white the largest distance from it, black as far below. Else: 0 is black, the largest white.
    """
    return draw_grid([enlarge(one[..., None], TILE_PX) for one in scale_to_grey(maps[:most], signed)])


def draw_filters(filters: np.ndarray, most: int) -> bytes:
    """Filters, float (F, channels, k, k): in colour where they see colour, else grey is 0."""
    if filters.shape[1] == 3:
        shown = filters[:most].transpose(0, 2, 3, 1)
        reach = abs(shown).max(axis=(1, 2, 3), keepdims=True).clip(1e-12)
        pixels = np.rint(127.5 + 127.5 * shown / reach).astype(np.uint8)
    else:
        pixels = scale_to_grey(filters[:most, 0], signed=True)[..., None]
    return draw_grid([enlarge(one, TILE_PX) for one in pixels])


def scale_to_grey(maps: np.ndarray, signed: bool) -> np.ndarray:
    """float (n, H, W) -> uint8 (n, H, W), all at one scale."""
    reach = max(float(abs(maps).max()), 1e-12) if maps.size else 1.0
    scaled = 127.5 + 127.5 * maps / reach if signed else 255 * maps.clip(0) / reach
    return np.rint(scaled).astype(np.uint8)


def draw_images(images: np.ndarray, side_px: int = IMAGE_PX) -> bytes:
    """uint8 (n, H, W, C) side by side."""
    return draw_grid([enlarge(one, side_px) for one in images])


def draw_heat_map(image: np.ndarray, heat: np.ndarray) -> bytes:
    """A picture uint8 (H, W, C) in grey under heat float (H, W): above 0 towards yellow, below 0 towards blue."""
    reach = max(float(abs(heat).max()), 1e-12)
    amount = (abs(heat) / reach)[..., None]
    colour = np.where(heat[..., None] >= 0, np.array([255, 200, 0]), np.array([40, 110, 255]))
    dull = np.repeat(image.mean(axis=2, keepdims=True) * 0.6, 3, axis=2)
    pixels = np.rint(dull * (1 - 0.75 * amount) + colour * 0.75 * amount).astype(np.uint8)
    return encode_image(Image.fromarray(pixels).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC))


def draw_image(image: np.ndarray) -> bytes:
    """One picture, uint8 (H, W, C)."""
    return encode_image(enlarge(image, IMAGE_PX))


def draw_grid(tiles: list[Image.Image]) -> bytes:
    """Equal tiles in rows of eight."""
    side = tiles[0].width
    across = min(TILES_PER_ROW, len(tiles)) if side <= TILE_PX else min(4, len(tiles))
    down = -(-len(tiles) // across)
    mode = "LA" if all(tile.mode == "L" for tile in tiles) else "RGBA"
    step = side + GAP_PX
    page = Image.new(mode, (across * step - GAP_PX, down * step - GAP_PX))  # transparent between the tiles
    for number, tile in enumerate(tiles):
        page.paste(tile.convert(mode), (number % across * step, number // across * step))
    return encode_image(page)


def plot_curve(x: list[float], y: list[float], x_name: str, y_name: str) -> bytes:
    """One curve, from 0 to 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, "o-", color="#3465a4", markersize=4)
    axes.set(xlabel=x_name, ylabel=y_name, ylim=(0, 1.02))
    axes.grid(color="#e3e8ee")
    return encode_figure(figure)
