"""Draw image kernels: the picture, the matrix, the feature map and its pooling, for one kernel or for several."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_modules.kernels.convolution import (
    POOL_WINDOW,
    PoolKind,
    convolve2d,
    is_brightness_kept,
    pool2d,
    rectify,
)

PANEL_PX, GAP_PX, TEXT_PX = 480, 24, 17
CELL_PX, MIN_TEXT_CELL_PX = 76, 30  # side of a number's square, at most; smaller ones have no text
PER_ROW, SMALL_PANEL_PX, SMALL_MATRIX_PX = 3, 320, 200  # of several kernels
PAPER, INK, RULE = (255, 255, 255), (20, 20, 20), (170, 170, 170)
POSITIVE, NEGATIVE = np.array([90, 140, 220]), np.array([235, 150, 70])

Panel = tuple[Image.Image, list[str]]  # with the lines under it


def draw_kernel_page(
    image: np.ndarray, kernel: np.ndarray, stride: int, padding: int, name: str, pool: PoolKind | None = None
) -> Image.Image:
    """Draw the image, the matrix, the feature map and its pooling side by side, each with its size.

    All but the matrix are drawn at one scale.

    Args:
        image: uint8 (H, W, 1 or 3).
        kernel: float (k, l).
        stride: in pixels.
        padding: in pixels.
        name: the kernel's, to write under it.
        pool: the kind of pooling; None: no pooling.
    """
    feature_map = convolve2d(image, kernel, stride, padding)
    scale = PANEL_PX / max(*image.shape[:2], *feature_map.shape[:2])
    panels = [
        (
            resize(image, scale),
            ["picture, grey" if image.shape[2] == 1 else "picture, colour", format_size(image)],
        ),
        (draw_matrix(kernel, PANEL_PX), [f"{name}, {format_size(kernel)}", f"stride {stride}, padding {padding}"]),
        *draw_maps(feature_map, kernel, pool, scale),
    ]
    return join_panels(panels)


def draw_kernels_page(
    image: np.ndarray, kernels: Mapping[str, np.ndarray], stride: int, padding: int, pool: PoolKind | None = None
) -> Image.Image:
    """Draw the image and, for each kernel by name, the matrix above its map, three side by side.

    Args:
        image: uint8 (H, W, 1 or 3).
        kernels: float (k, l) each.
        stride: in pixels.
        padding: in pixels.
        pool: the kind of pooling, of which the result is shown; None: no pooling.
    """
    scale = SMALL_PANEL_PX / (max(image.shape[:2]) + 2 * padding)
    panels: list[Panel] = [(resize(image, scale), ["picture", format_size(image)])]
    for name, kernel in kernels.items():
        feature_map = convolve2d(image, kernel, stride, padding)
        map_image, lines = draw_maps(feature_map, kernel, pool, scale)[-1]
        panels.append((stack(draw_matrix(kernel, SMALL_MATRIX_PX), map_image), [name, lines[1]]))
    rows = [join_panels(panels[start : start + PER_ROW]) for start in range(0, len(panels), PER_ROW)]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    return page


def draw_maps(feature_map: np.ndarray, kernel: np.ndarray, pool: PoolKind | None, scale: float) -> list[Panel]:
    """Return the panels of a feature map after ReLU and, if asked for, of its pooling at the same scale."""
    visible, scale_text = rectify(feature_map, is_brightness_kept(kernel, None))
    panels = [(resize(visible, scale), [f"feature map, {format_size(feature_map)}", scale_text])]
    if pool is not None:
        pooled = pool2d(feature_map.clip(0), pool)
        visible, scale_text = rectify(pooled, is_brightness_kept(kernel, pool))
        title = f"{pool} pooling {POOL_WINDOW} x {POOL_WINDOW}, {format_size(pooled)}"
        panels.append((resize(visible, scale), [title, scale_text.removeprefix("rectified: ")]))
    return panels


def format_size(pixels: np.ndarray) -> str:
    """Return width x height of an array (H, W, ...)."""
    height, width = pixels.shape[:2]
    return f"{width} x {height}"


def resize(pixels: np.ndarray, scale: float) -> Image.Image:
    """Enlarge a small image (H, W, 1 or 3) so that every pixel is a square; average a large one down."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    shown = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(shown)).resize((width, height), resampling).convert("RGB")


def draw_matrix(kernel: np.ndarray, side_px: int) -> Image.Image:
    """Draw the numbers in a grid of squares, blue above 0 and orange below, within a square of `side_px`."""
    rows, columns = kernel.shape
    cell = max(3, min(CELL_PX, (side_px - 1) // max(rows, columns)))
    panel = Image.new("RGB", (columns * cell + 1, rows * cell + 1), PAPER)
    pen = ImageDraw.Draw(panel)
    font = ImageFont.load_default(max(8, min(TEXT_PX, round(cell / 3.4))))
    reach = max(float(abs(kernel).max()), 1e-12)
    for row, column in np.ndindex(rows, columns):
        left, top = column * cell, row * cell
        share = 0.8 * abs(kernel[row, column]) / reach
        colour = POSITIVE if kernel[row, column] >= 0 else NEGATIVE
        fill = tuple(np.rint(255 * (1 - share) + colour * share).astype(int).tolist())
        pen.rectangle((left, top, left + cell, top + cell), outline=RULE, fill=fill)
        if cell >= MIN_TEXT_CELL_PX:
            middle = (left + cell / 2, top + cell / 2)
            pen.text(middle, f"{kernel[row, column]:.4g}", fill=INK, font=font, anchor="mm")
    return panel


def stack(above: Image.Image, below: Image.Image) -> Image.Image:
    """Return two images under each other, centred."""
    width = max(above.width, below.width)
    page = Image.new("RGB", (width, above.height + GAP_PX // 2 + below.height), PAPER)
    page.paste(above, ((width - above.width) // 2, 0))
    page.paste(below, ((width - below.width) // 2, above.height + GAP_PX // 2))
    return page


def join_panels(panels: list[Panel]) -> Image.Image:
    """Join panels from left to right, centred on one line, with two lines of text under each."""
    font = ImageFont.load_default(TEXT_PX)
    widths = [max(panel.width, *(round(font.getlength(line)) for line in lines)) for panel, lines in panels]
    tallest = max(panel.height for panel, _ in panels)
    size = (sum(widths) + GAP_PX * (len(panels) + 1), tallest + 3 * GAP_PX + 2 * TEXT_PX)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    left = GAP_PX
    for (panel, lines), width in zip(panels, widths, strict=True):
        x, y = left + (width - panel.width) // 2, GAP_PX + (tallest - panel.height) // 2
        page.paste(panel, (x, y))
        pen.rectangle((x - 1, y - 1, x + panel.width, y + panel.height), outline=RULE)
        for number, line in enumerate(lines):
            position = (left + width / 2, tallest + 2 * GAP_PX + number * (TEXT_PX + 6))
            pen.text(position, line, fill=INK, font=font, anchor="mm")
        left += width + GAP_PX
    return page
