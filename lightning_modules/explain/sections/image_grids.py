"""Draw arrays as images: feature maps, filters, patches and heat maps, as PNG files without time stamps.

Heat and feature maps have perceptually uniform colours, in which equal steps look equal and the order is that of
brightness: viridis and inferno, by S. van der Walt and N. Smith, 2015, https://bids.github.io/colormap/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from imageset.html.images import encode_figure, encode_image, enlarge

if TYPE_CHECKING:
    from lightning_modules.explain.top_patches import Patch

TILES_PER_ROW, GAP_PX = 8, 6
TILE_PX = 96
IMAGE_PX = 256
PATCH_PX, PATCHES_PER_ROW, PATCH_GAP_PX = 112, 3, 3
GAP_GREY = (128, 128, 128)
CLIPPED_PERCENT = 1  # of a map's numbers, at each end, share the darkest and the brightest colour
HEAT_OPACITY = (0.4, 0.7)  # of no heat and of the highest: cold places are darker, and keep their colours
FRAME = (255, 64, 64)


def draw_feature_maps(maps: np.ndarray) -> bytes:
    """Draw feature maps, float (n, H, W), each with its own scale, see `scale_map`."""
    return draw_grid([colour_map(scale_map(pixels)[0]) for pixels in maps])


def scale_map(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a map, float (H, W), as 0..1, and the numbers that 0 and 1 stand for: its 1st and 99th percentile."""
    low, high = (float(v) for v in np.percentile(values, (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT)))
    if high <= low:  # nearly all numbers are equal: the whole range
        low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1), (low, high)


def draw_map(shares: np.ndarray) -> bytes:
    """Draw one map, float (H, W) of 0..1, in viridis."""
    return encode_image(colour_map(shares))


def colour_map(shares: np.ndarray) -> Image.Image:
    """Return a map, float (H, W) of 0..1, as a tile in viridis."""
    return enlarge(apply_colours(shares, "viridis"), TILE_PX)


def apply_colours(shares: np.ndarray, name: str) -> np.ndarray:
    """Return values of 0..1, (H, W), as uint8 (H, W, 3) in one of matplotlib's colour maps."""
    from matplotlib import colormaps

    colours: np.ndarray = colormaps[name](shares, bytes=True)[..., :3]
    return colours


def draw_filters(filters: np.ndarray) -> bytes:
    """Draw filters, float (F, channels, k, k), see `colour_filter`."""
    return draw_grid([enlarge(colour_filter(filter_), TILE_PX) for filter_ in filters])


def draw_filter(filter_: np.ndarray) -> bytes:
    """Draw one filter, float (channels, k, k), see `colour_filter`."""
    return encode_image(enlarge(colour_filter(filter_), TILE_PX))


def colour_filter(filter_: np.ndarray) -> np.ndarray:
    """Return a filter, float (channels, k, k), as uint8 (k, k, 1 or 3): three channels in colour, else the first.

    Grey is 0, bright is positive, dark is negative.
    """
    shown = filter_.transpose(1, 2, 0) if filter_.shape[0] == 3 else filter_[0][..., None]
    reach = max(float(abs(shown).max()), 1e-12)
    return np.rint(127.5 + 127.5 * shown / reach).astype(np.uint8)


def draw_heat_map(image: np.ndarray, heat: np.ndarray) -> bytes:
    """Draw an image in its colours under its heat in inferno.

    Args:
        image: uint8 (H, W, C).
        heat: float (H, W); below 0 counts as 0, the largest value has the brightest colour.
    """
    shares = heat.clip(0) / max(float(heat.max()), 1e-12)
    size = (IMAGE_PX, IMAGE_PX)
    smooth = Image.fromarray(shares.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    amount = np.asarray(smooth).clip(0, 1)
    picture = np.asarray(enlarge(image, IMAGE_PX).convert("RGB"), np.float32)
    opacity = HEAT_OPACITY[0] + (HEAT_OPACITY[1] - HEAT_OPACITY[0]) * amount[..., None]
    pixels = picture * (1 - opacity) + apply_colours(amount, "inferno") * opacity
    return encode_image(Image.fromarray(np.rint(pixels).astype(np.uint8)))


def draw_heat_scale() -> bytes:
    """Draw the colours of heat from 0 to the largest."""
    return encode_image(Image.fromarray(apply_colours(np.linspace(0, 1, 128)[None].repeat(8, axis=0), "inferno")))


def draw_image(image: np.ndarray, frames: Sequence[tuple[int, int, int, int]] = ()) -> bytes:
    """Draw one image, uint8 (H, W, C), with frames around parts: (top, left, height, width) in its pixels."""
    drawn = enlarge(image, IMAGE_PX).convert("RGB")
    scale_y, scale_x = drawn.height / image.shape[0], drawn.width / image.shape[1]
    pen = ImageDraw.Draw(drawn)
    for top, left, height, width in frames:
        corners = (
            left * scale_x - 2,
            top * scale_y - 2,
            (left + width) * scale_x + 1,
            (top + height) * scale_y + 1,
        )
        pen.rectangle(corners, outline=FRAME, width=3)
    return encode_image(drawn)


def draw_patches(patches: Sequence[np.ndarray]) -> bytes:
    """Draw patches, uint8 (n, n, 3), in rows of three."""
    step = PATCH_PX + PATCH_GAP_PX
    across, down = min(PATCHES_PER_ROW, len(patches)), -(-len(patches) // PATCHES_PER_ROW)
    grid = Image.new("RGB", (across * step - PATCH_GAP_PX, down * step - PATCH_GAP_PX), GAP_GREY)
    for number, patch in enumerate(patches):
        grid.paste(enlarge_patch(patch), (number % across * step, number // across * step))
    return encode_image(grid)


def enlarge_patch(patch: np.ndarray) -> Image.Image:
    """Return a patch, uint8 (h, w, 3), as a square tile."""
    smooth = Image.Resampling.NEAREST if max(patch.shape[:2]) <= 16 else Image.Resampling.BICUBIC
    return Image.fromarray(patch).resize((PATCH_PX, PATCH_PX), smooth)


def frame_part(pixels: np.ndarray, part: Patch, shown: Patch) -> np.ndarray:
    """Return pixels as RGB, with a frame around a part of them if it is less than half as wide.

    Args:
        pixels: uint8 (h, w, C), the part of an image that is shown.
        part: the part in the frame, in pixels of the image.
        shown: the part that is shown, in pixels of the image.
    """
    rgb = to_rgb(pixels)
    if 2 * (part.rows[1] - part.rows[0]) > rgb.shape[0]:
        return rgb
    scale = max(1, PATCH_PX // max(rgb.shape[:2]))
    large = Image.fromarray(rgb.repeat(scale, axis=0).repeat(scale, axis=1))
    top, left = part.rows[0] - shown.rows[0], part.columns[0] - shown.columns[0]
    bottom, right = part.rows[1] - shown.rows[0], part.columns[1] - shown.columns[0]
    corners = (left * scale, top * scale, right * scale - 1, bottom * scale - 1)
    ImageDraw.Draw(large).rectangle(corners, outline=FRAME, width=2)
    return np.asarray(large)


def mark_place(image: np.ndarray, centre: Sequence[float]) -> np.ndarray:
    """Return an image, uint8 (H, W, C), as RGB with a ring around a place (down, across)."""
    marked = enlarge(image, PATCH_PX).convert("RGB")
    y, x = (min(max(place / side, 0), 1) * PATCH_PX for place, side in zip(centre, image.shape[:2], strict=True))
    pen = ImageDraw.Draw(marked)
    pen.ellipse((x - 11, y - 11, x + 11, y + 11), outline=(0, 0, 0), width=4)
    pen.ellipse((x - 10, y - 10, x + 10, y + 10), outline=FRAME, width=2)
    return np.asarray(marked)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 (h, w, 1 or 3) as uint8 (h, w, 3)."""
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def draw_grid(tiles: Sequence[Image.Image]) -> bytes:
    """Draw square tiles of equal size in rows."""
    side = tiles[0].width
    across = min(TILES_PER_ROW, len(tiles))
    down = -(-len(tiles) // across)
    step = side + GAP_PX
    grid = Image.new("RGBA", (across * step - GAP_PX, down * step - GAP_PX))  # transparent between the tiles
    for number, tile in enumerate(tiles):
        grid.paste(tile.convert("RGBA"), (number % across * step, number // across * step))
    return encode_image(grid)


def plot_curves(
    curves: Mapping[str, tuple[list[float], list[float]]],
    x_name: str,
    y_name: str,
    *,
    desired: float | None = None,
    marked: float | None = None,
    upper: float | None = 1.02,
) -> bytes:
    """Plot curves by name.

    Args:
        curves: x and y of each.
        x_name: label of the axis.
        y_name: label of the axis.
        desired: a value that a dashed line marks.
        marked: an x that a dotted line marks.
        upper: end of the y axis; None: that of the curves.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (name, (x, y)), style in zip(curves.items(), ("o-", "s--", "^:"), strict=False):
        axes.plot(x, y, style, markersize=4, label=name)
    if desired is not None:
        axes.axhline(desired, color="#2c7a4b", linestyle="--", linewidth=1.2, label=f"desired error {desired:g}")
    if marked is not None:
        axes.axvline(marked, color="#888", linestyle=":", linewidth=1.2, label=f"kept: epoch {marked:g}")
    axes.set(xlabel=x_name, ylabel=y_name)
    axes.set_ylim(0, upper)
    axes.grid(color="#e3e8ee")
    if len(curves) > 1 or desired is not None:
        axes.legend(fontsize=8)
    return encode_figure(figure)
