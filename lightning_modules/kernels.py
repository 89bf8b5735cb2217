"""Image kernels: show what one filter of a convolutional network does to an image.

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
MAX_SIDE_PX = 4096  # a larger image is shrunk to this side first; a dataset holds no larger ones
MAX_PIXELS = 178_956_970  # checked before decoding; Pillow's own limit
MAX_KERNEL_VALUE = 1_000_000  # with larger numbers, sums of products lose the image

PANEL_PX, GAP_PX, TEXT_PX = 480, 24, 17
PAPER, INK, RULE = 255, 20, 170


def parse_kernel(text: str) -> np.ndarray:
    """Return a kernel as float64 (3, 3).

    Args:
        text: a name in `KERNELS`, or 9 numbers row by row, separated by spaces or commas.

    Raises:
        UserError: `text` is no such name and not 9 numbers from -1,000,000 to 1,000,000.
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
            f"--kernel: numbers go from {-MAX_KERNEL_VALUE:,} to {MAX_KERNEL_VALUE:,}; {text!r} has another"
        )
    return numbers.reshape(3, 3)


def compute_output_size(side: int, kernel: int, stride: int, padding: int) -> int:
    """Return the number of positions of the kernel along one side: (n + 2p - k) / s + 1, rounded down.

    Args:
        side: n, in pixels.
        kernel: k, in pixels.
        stride: s, in pixels.
        padding: p, in pixels.

    Raises:
        UserError: the stride is below 1, the padding below 0, or the kernel larger than the padded image.
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
    """Slide a kernel over an image and sum the products: (H, W), (k, l) -> float64 (H', W').

    H' = (H + 2 padding - k) / stride + 1, rounded down, and W' likewise. The image is surrounded by `padding` px
    of zeros. As in all convolutional networks the kernel is not flipped (in mathematics: cross-correlation).

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
    """Return a feature map after ReLU as a grey image, uint8 (H, W), and a description of the scale.

    Values below 0 are black. A kernel whose numbers sum to 1 keeps brightness, so white is 255 and more, as in the
    image. With any other sum white is the largest value of the map.
    """
    keeps_brightness = np.isclose(kernel.sum(), 1)
    white = 255.0 if keeps_brightness else max(float(feature_map.max()), 1e-9)
    pixels = np.rint(feature_map.clip(0, white) * (255 / white)).astype(np.uint8)
    return pixels, f"rectified: below 0 is black, {white:.4g} is white"


def read_grey_image(path: Path) -> np.ndarray:
    """Read an image of any format that Convoy reads as grey uint8 (H, W), upright.

    Raises:
        UserError: the file cannot be read, or is not a complete image.
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
    except Rejected as rejection:
        raise UserError(f"{path}: {rejection.reason}: {rejection.detail}") from None
    scale = side / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    top, left = (side - height) // 2, (side - width) // 2
    return padded[top : top + height, left : left + width, 0]


def draw_kernel_page(image: np.ndarray, kernel: np.ndarray, stride: int, padding: int, name: str) -> Image.Image:
    """Draw the image, the matrix and the feature map side by side, each with its size.

    The image and the feature map are drawn at one scale.

    Args:
        image: uint8 (H, W).
        kernel: float (k, l).
        stride: in pixels.
        padding: in pixels.
        name: the kernel's, to write under it.
    """
    feature_map = convolve2d(image, kernel, stride, padding)
    visible, scale_text = rectify(feature_map, kernel)
    scale = PANEL_PX / max(*image.shape, *feature_map.shape)
    panels = [
        (_resize(image, scale), ["picture, grey", _format_size(image)]),
        (_draw_matrix(kernel), [f"{name}, {_format_size(kernel)}", f"stride {stride}, padding {padding}"]),
        (_resize(visible, scale), [f"feature map, {_format_size(feature_map)}", scale_text]),
    ]
    return _join_panels(panels)


def write_kernel_page(path: Path, kernel_text: str, stride: int, padding: int, out: Path | None) -> str:
    """Write the drawing of `draw_kernel_page` as a PNG file.

    Args:
        path: the image file.
        kernel_text: see `parse_kernel`.
        stride: in pixels.
        padding: in pixels.
        out: the file to write; None for IMAGE.KERNEL.png in the current folder.

    Returns:
        A line with the sizes and the path of the file.

    Raises:
        UserError: the image, the kernel, a number or `out` cannot be used.
    """
    kernel = parse_kernel(kernel_text)
    image = read_grey_image(path)
    if padding > max(image.shape):
        raise UserError(f"--padding is {padding}, more than the whole picture ({_format_size(image)}); lower it")
    name = kernel_text if kernel_text in KERNELS else "kernel"
    out = out or Path(f"{path.stem}.{name}.png")
    _check_output_path(out, path)
    height, width = (
        compute_output_size(n, k, stride, padding) for n, k in zip(image.shape, kernel.shape, strict=True)
    )
    buffer = io.BytesIO()
    draw_kernel_page(image, kernel, stride, padding, name).save(buffer, "PNG")
    write_bytes(out, buffer.getvalue())
    return (
        f"kernels: picture {_format_size(image)}, {name} {_format_size(kernel)}, stride {stride}, "
        f"padding {padding} -> feature map {width} x {height}; {out} written"
    )


def _check_output_path(out: Path, image_path: Path) -> None:
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: give a file name that ends in .png")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give a file name that ends in .png")
    if out.exists() and out.samefile(image_path):
        raise UserError(f"{out}: is the picture itself; give another name with --out")


def _format_size(pixels: np.ndarray) -> str:
    height, width = pixels.shape
    return f"{width} x {height}"


def _resize(pixels: np.ndarray, scale: float) -> Image.Image:
    """Enlarge a small image so that every pixel is a square; average a large one down."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), resampling)


def _draw_matrix(kernel: np.ndarray) -> Image.Image:
    """Draw the numbers in a grid of squares."""
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
    """Join panels from left to right, centred on one line, with two lines of text under each."""
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
            position = (left + width / 2, tallest + 2 * GAP_PX + number * (TEXT_PX + 6))
            pen.text(position, line, fill=INK, font=font, anchor="mm")
        left += width + GAP_PX
    return page
