"""Draw arrays as images: feature maps, filters and heat maps, as PNG files without time stamps."""

import numpy as np
from PIL import Image

from imageset.html.images import encode_figure, encode_image, enlarge

TILES_PER_ROW, GAP_PX = 8, 6
TILE_PX = 56
IMAGE_PX = 192


def draw_feature_maps(maps: np.ndarray, max_maps: int, signed: bool) -> bytes:
    """Draw the first feature maps of a layer at one scale.

    Args:
        maps: float (C, H, W).
        max_maps: how many are drawn at most.
        signed: whether grey is 0, white the largest distance from 0 and black as far below it; otherwise black
            is 0 and white the largest value.
    """
    return draw_grid([enlarge(pixels[..., None], TILE_PX) for pixels in scale_to_grey(maps[:max_maps], signed)])


def draw_filters(filters: np.ndarray, max_filters: int) -> bytes:
    """Draw filters, float (F, channels, k, k): three channels in colour, else the first channel; grey is 0."""
    if filters.shape[1] == 3:
        shown = filters[:max_filters].transpose(0, 2, 3, 1)
        reach = abs(shown).max(axis=(1, 2, 3), keepdims=True).clip(1e-12)
        pixels = np.rint(127.5 + 127.5 * shown / reach).astype(np.uint8)
    else:
        pixels = scale_to_grey(filters[:max_filters, 0], signed=True)[..., None]
    return draw_grid([enlarge(tile, TILE_PX) for tile in pixels])


def scale_to_grey(maps: np.ndarray, signed: bool) -> np.ndarray:
    """Scale float (n, H, W) to uint8 (n, H, W), all maps by one factor."""
    reach = max(float(abs(maps).max()), 1e-12) if maps.size else 1.0
    scaled = 127.5 + 127.5 * maps / reach if signed else 255 * maps.clip(0) / reach
    return np.rint(scaled).astype(np.uint8)


def draw_images(images: np.ndarray, side_px: int = IMAGE_PX) -> bytes:
    """Draw images, uint8 (n, H, W, C), side by side."""
    return draw_grid([enlarge(image, side_px) for image in images])


def draw_heat_map(image: np.ndarray, heat: np.ndarray) -> bytes:
    """Draw an image in grey under its heat map.

    Args:
        image: uint8 (H, W, C).
        heat: float (H, W); above 0 is yellow, below 0 blue.
    """
    reach = max(float(abs(heat).max()), 1e-12)
    amount = (abs(heat) / reach)[..., None]
    colour = np.where(heat[..., None] >= 0, np.array([255, 200, 0]), np.array([40, 110, 255]))
    grey = np.repeat(image.mean(axis=2, keepdims=True) * 0.6, 3, axis=2)
    pixels = np.rint(grey * (1 - 0.75 * amount) + colour * 0.75 * amount).astype(np.uint8)
    return encode_image(Image.fromarray(pixels).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC))


def draw_image(image: np.ndarray) -> bytes:
    """Draw one image, uint8 (H, W, C)."""
    return encode_image(enlarge(image, IMAGE_PX))


def draw_grid(tiles: list[Image.Image]) -> bytes:
    """Draw tiles of equal size in rows: eight small ones or four large ones."""
    side = tiles[0].width
    across = min(TILES_PER_ROW, len(tiles)) if side <= TILE_PX else min(4, len(tiles))
    down = -(-len(tiles) // across)
    mode = "LA" if all(tile.mode == "L" for tile in tiles) else "RGBA"
    step = side + GAP_PX
    grid = Image.new(mode, (across * step - GAP_PX, down * step - GAP_PX))  # transparent between the tiles
    for number, tile in enumerate(tiles):
        grid.paste(tile.convert(mode), (number % across * step, number // across * step))
    return encode_image(grid)


def plot_curve(x: list[float], y: list[float], x_name: str, y_name: str) -> bytes:
    """Plot one curve with values of 0..1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, "o-", color="#3465a4", markersize=4)
    axes.set(xlabel=x_name, ylabel=y_name, ylim=(0, 1.02))
    axes.grid(color="#e3e8ee")
    return encode_figure(figure)
