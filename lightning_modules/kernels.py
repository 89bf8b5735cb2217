"""Image kernels: what one filter of a convolutional network does to a picture, with the numbers in sight.

Sources: V. Powell, "Image Kernels Explained Visually" (https://setosa.io/ev/image-kernels/) for the idea and the
matrices (`edge` is the Laplacian); Stanford's UFLDL tutorial, "Feature extraction using convolution", for the
worked example of 5 x 5 by 3 x 3; V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning"
(arXiv:1603.07285) for the output's size.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw, ImageFont

from imageset.decoding.decoder import decode_with_size, read_image_header
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.utils.atomic_write import write_bytes
from imageset.utils.text import suggest_name

KERNELS: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "edge": ((0, -1, 0), (-1, 4, -1), (0, -1, 0)),
    "outline": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "emboss": ((-2, -1, 0), (-1, 1, 1), (0, 1, 2)),
    "blur": ((0.0625, 0.125, 0.0625), (0.125, 0.25, 0.125), (0.0625, 0.125, 0.0625)),
}
MAX_SIDE_PX = 4096  # a larger picture is brought to this first; no decoded picture of ours is larger
MAX_PIXELS = 178_956_970  # judged before decoding; where Pillow itself refuses
MAX_KERNEL_VALUE = 1_000_000  # in a kernel; beyond, sums of products lose the picture

PANEL_PX, GAP_PX, TEXT_PX = 480, 24, 17
PAPER, INK, RULE = 255, 20, 170


def parse_kernel(text: str) -> np.ndarray:
    """A kernel's name, or 9 numbers row by row with spaces or commas between, as float64 (3, 3).

    Raises:
        UserError: no such name, or not 9 numbers from -1,000,000 to 1,000,000.
    """
    if text in KERNELS:
        return np.array(KERNELS[text], dtype=np.float64)
    words = text.replace(",", " ").split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        hint = suggest_name(text.lower(), KERNELS)
        raise UserError(f"--kernel: no kernel {text!r} ({hint}); give a name, or 9 numbers") from None
    if len(numbers) != 9:
        raise UserError(f"--kernel: {len(numbers)} numbers in {text!r}; give a name, or 9 numbers")
    if not (np.abs(numbers) <= MAX_KERNEL_VALUE).all():
        raise UserError(
            f"--kernel: numbers go from {-MAX_KERNEL_VALUE:,} to {MAX_KERNEL_VALUE:,}, not as in {text!r}"
        )
    return numbers.reshape(3, 3)


def compute_output_size(side: int, kernel: int, stride: int, padding: int) -> int:
    """How many places the kernel has along one side: (n + 2p - k) / s + 1, rounded down (all in px).

    Raises:
        UserError: the stride is below 1, the padding below 0, or the kernel larger than the padded picture.
    """
    if stride < 1:
        raise UserError(f"--stride is {stride}; it must be 1 or more")
    if padding < 0:
        raise UserError(f"--padding is {padding}; it must be 0 or more")
    if kernel > side + 2 * padding:
        raise UserError(
            f"the kernel ({kernel} px) is larger than the padded picture ({side} + 2 x {padding} px); "
            "raise --padding"
        )
    return (side + 2 * padding - kernel) // stride + 1


def convolve2d(image: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Slide a kernel over a picture and sum the products: (H, W), (k, l) -> float64 (H', W').

    H' = (H + 2 padding - k) / stride + 1, rounded down, and W' likewise. Around the picture are `padding` px of
    zeros. As in all convolutional networks the kernel is not turned over (mathematics says cross-correlation).

    Raises:
        UserError: see `compute_output_size`.
    """
    sizes = zip(image.shape, kernel.shape, strict=True)
    feature_map = np.zeros([compute_output_size(side, k, stride, padding) for side, k in sizes])
    padded = np.pad(image.astype(np.float64), padding)
    windows = sliding_window_view(padded, kernel.shape)[::stride, ::stride]  # (H', W', k, l), a view
    for row, column in np.ndindex(*kernel.shape):
        feature_map += kernel[row, column] * windows[:, :, row, column]
    return feature_map


def rectify(feature_map: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, str]:
    """A feature map made visible: uint8 (H, W), and how, in words. ReLU, then grey: what is below 0 is black.

    A kernel whose numbers sum to 1 keeps brightness, so white is 255 and more, as in the picture. With any other
    sum white is the largest value of the map.
    """
    keeps_brightness = np.isclose(kernel.sum(), 1)
    white = 255.0 if keeps_brightness else max(float(feature_map.max()), 1e-9)
    pixels = np.rint(feature_map.clip(0, white) * (255 / white)).astype(np.uint8)
    return pixels, f"rectified: below 0 is black, {white:.4g} is white"


def read_grey_image(path: Path) -> np.ndarray:
    """A picture of any format that Convoy reads, upright, as grey uint8 (H, W).

    Raises:
        UserError: it cannot be read, or is no whole picture.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a picture")
    try:
        data = path.read_bytes()
        header = read_image_header(data, MAX_PIXELS)
        side = min(max(header.width, header.height), MAX_SIDE_PX)
        padded, width, height = decode_with_size(data, DecodeSpec(side, 1, "pad", "bilinear", MAX_PIXELS))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Rejected as refused:
        raise UserError(f"{path}: {refused.reason}: {refused.detail}") from None
    scale = side / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    top, left = (side - height) // 2, (side - width) // 2
    return padded[top : top + height, left : left + width, 0]


def draw_kernel_page(picture: np.ndarray, kernel: np.ndarray, stride: int, padding: int, name: str) -> Image.Image:
    """The picture, the matrix and the feature map side by side, each with its size; picture and map at one scale.

    Args:
        picture: uint8 (H, W).
        name: the kernel's, to write under it.
    """
    feature_map = convolve2d(picture, kernel, stride, padding)
    visible, how = rectify(feature_map, kernel)
    scale = PANEL_PX / max(*picture.shape, *feature_map.shape)
    panels = [
        (_resize(picture, scale), ["picture, grey", _format_size(picture)]),
        (_draw_matrix(kernel), [f"{name}, {_format_size(kernel)}", f"stride {stride}, padding {padding}"]),
        (_resize(visible, scale), [f"feature map, {_format_size(feature_map)}", how]),
    ]
    return _join_panels(panels)


def write_kernel_page(image: Path, kernel_text: str, stride: int, padding: int, out: Path | None) -> str:
    """Write what `draw_kernel_page` shows as a PNG, without `out` to IMAGE.KERNEL.png in the current folder; say so in a line.

    Raises:
        UserError: the picture, the kernel, a number or the place to write to cannot be used.
    """
    kernel = parse_kernel(kernel_text)
    picture = read_grey_image(image)
    if padding > max(picture.shape):
        raise UserError(f"--padding is {padding}, more than the whole picture ({_format_size(picture)}); lower it")
    name = kernel_text if kernel_text in KERNELS else "kernel"
    out = out or Path(f"{image.stem}.{name}.png")
    _check_output_path(out, image)
    height, width = (
        compute_output_size(n, k, stride, padding) for n, k in zip(picture.shape, kernel.shape, strict=True)
    )
    page = io.BytesIO()
    draw_kernel_page(picture, kernel, stride, padding, name).save(page, "PNG")
    write_bytes(out, page.getvalue())
    return (
        f"kernels: picture {_format_size(picture)}, {name} {_format_size(kernel)}, stride {stride}, padding {padding}"
        f" -> feature map {width} x {height}; {out} written"
    )


def _check_output_path(out: Path, image: Path) -> None:
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: give a file name that ends in .png")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give a file name that ends in .png")
    if out.exists() and out.samefile(image):
        raise UserError(f"{out}: is the picture itself; give another name with --out")


def _format_size(pixels: np.ndarray) -> str:
    height, width = pixels.shape
    return f"{width} x {height}"


def _resize(pixels: np.ndarray, scale: float) -> Image.Image:
    """Small pictures with every pixel as a square, large ones averaged down."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), way)


def _draw_matrix(kernel: np.ndarray) -> Image.Image:
    """The numbers in a grid of squares."""
    cell, rows, columns = 76, *kernel.shape
    panel = Image.new("L", (columns * cell + 1, rows * cell + 1), PAPER)
    pen = ImageDraw.Draw(panel)
    for row, column in np.ndindex(rows, columns):
        left, top = column * cell, row * cell
        pen.rectangle((left, top, left + cell, top + cell), outline=RULE)
        middle = (left + cell / 2, top + cell / 2)
        pen.text(middle, f"{kernel[row, column]:.4g}", fill=INK, font=ImageFont.load_default(TEXT_PX), anchor="mm")
    return panel


def _join_panels(panels: list[tuple[Image.Image, list[str]]]) -> Image.Image:
    """Panels from left to right, middles on one line, two lines of text under each."""
    font = ImageFont.load_default(TEXT_PX)
    widths = [max(panel.width, *(round(font.getlength(line)) for line in lines)) for panel, lines in panels]
    tallest = max(panel.height for panel, _ in panels)
    size = (sum(widths) + GAP_PX * (len(panels) + 1), tallest + 3 * GAP_PX + 2 * TEXT_PX)
    page = Image.new("L", size, PAPER)
    pen = ImageDraw.Draw(page)
    left = GAP_PX
    for (panel, lines), width in zip(panels, widths, strict=True):
        x, y = left + (width - panel.width) // 2, GAP_PX + (tallest - panel.height) // 2
        page.paste(panel, (x, y))
        pen.rectangle((x - 1, y - 1, x + panel.width, y + panel.height), outline=RULE)
        for number, line in enumerate(lines):
            place = (left + width / 2, tallest + 2 * GAP_PX + number * (TEXT_PX + 6))
            pen.text(place, line, fill=INK, font=font, anchor="mm")
        left += width + GAP_PX
    return page
