"""`convoy kernels`: write the drawing of one kernel, or of a folder of kernels, over one picture."""

from __future__ import annotations

import io
import os.path
from pathlib import Path

import numpy as np

from imageset.decoding.decoder import decode_with_size, read_image_header
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.utils.atomic_write import write_bytes
from lightning_modules.kernels.convolution import (
    KERNELS,
    POOL_WINDOW,
    PoolKind,
    compute_output_size,
    parse_kernel,
    read_kernel_folder,
)
from lightning_modules.kernels.drawing import draw_kernel_page, draw_kernels_page, format_size

MAX_SIDE_PX = 4096  # a larger image is shrunk to this side first; a dataset holds no larger ones
MAX_PIXELS = 178_956_970  # checked before decoding; Pillow's own limit


def read_image(path: Path, channels: int) -> np.ndarray:
    """Read an image of any format that Convoy reads as uint8 (H, W, channels), upright; 1: grey, 3: colour.

    Raises:
        UserError: the file cannot be read, or is not a complete image.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a picture")
    try:
        data = path.read_bytes()
        header = read_image_header(data, MAX_PIXELS)
        side = min(max(header.width, header.height), MAX_SIDE_PX)
        padded, width, height = decode_with_size(data, DecodeSpec(side, channels, "pad", "bilinear", MAX_PIXELS))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Rejected as rejection:
        raise UserError(f"{path}: {rejection.reason}: {rejection.detail}") from None
    scale = side / max(width, height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    top, left = (side - height) // 2, (side - width) // 2
    return padded[top : top + height, left : left + width]


def write_kernel_page(
    path: Path,
    kernel_text: str,
    stride: int,
    padding: int,
    out: Path | None,
    pool: PoolKind | None = None,
    in_colour: bool = False,
) -> str:
    """Write the drawing of one kernel or of a folder of kernels as a PNG file.

    Args:
        path: the image file.
        kernel_text: see `parse_kernel`; or a folder, see `read_kernel_folder`.
        stride: in pixels.
        padding: in pixels.
        out: the file to write; None for IMAGE.KERNEL.png in the current folder.
        pool: the kind of pooling after ReLU; None: no pooling.
        in_colour: whether red, green and blue are filtered, each by the kernel; otherwise the grey image.

    Returns:
        A line with the sizes and the path of the file.

    Raises:
        UserError: the image, a kernel, a number or `out` cannot be used.
    """
    name, kernels = read_kernels(kernel_text)
    image = read_image(path, 3 if in_colour else 1)
    if padding > max(image.shape[:2]):
        raise UserError(f"--padding is {padding}, more than the whole picture ({format_size(image)}); lower it")
    out = out or Path(f"{path.stem}.{name}.png")
    _check_output_path(out, path)
    buffer = io.BytesIO()
    if len(kernels) == 1:
        page = draw_kernel_page(image, next(iter(kernels.values())), stride, padding, next(iter(kernels)), pool)
    else:
        page = draw_kernels_page(image, kernels, stride, padding, pool)
    page.save(buffer, "PNG")
    write_bytes(out, buffer.getvalue())
    return (
        f"kernels: picture {format_size(image)}, {describe_kernels(name, kernels)}, stride {stride}, "
        f"padding {padding} -> {describe_sizes(image, kernels, stride, padding, pool)}; {out} written"
    )


def read_kernels(text: str) -> tuple[str, dict[str, np.ndarray]]:
    """Return the name for the page, and the kernels by name: one, or those of a folder."""
    if text not in KERNELS and os.path.isdir(text):
        return Path(text).resolve().name, read_kernel_folder(Path(text))
    name = text if text in KERNELS else "kernel"
    return name, {name: parse_kernel(text)}


def describe_kernels(name: str, kernels: dict[str, np.ndarray]) -> str:
    """Return the kernel with its size, or the number of kernels of a folder."""
    if len(kernels) == 1:
        ((kernel_name, kernel),) = kernels.items()
        return f"{kernel_name} {format_size(kernel)}"
    return f"{len(kernels)} kernels of {name}"


def describe_sizes(
    image: np.ndarray, kernels: dict[str, np.ndarray], stride: int, padding: int, pool: PoolKind | None
) -> str:
    """Return the size of the feature map, and that after pooling; of several kernels, each different size once."""
    sizes: dict[str, None] = {}  # in the order of the kernels
    for kernel in kernels.values():
        height, width = (
            compute_output_size(n, k, stride, padding) for n, k in zip(image.shape[:2], kernel.shape, strict=True)
        )
        pooled = f", {pool} pooling {width // POOL_WINDOW} x {height // POOL_WINDOW}" if pool else ""
        sizes[f"{width} x {height}{pooled}"] = None
    return f"feature map{'s' if len(kernels) > 1 else ''} {' or '.join(sizes)}"


def _check_output_path(out: Path, image_path: Path) -> None:
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: give a file name that ends in .png")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give a file name that ends in .png")
    if out.exists() and out.samefile(image_path):
        raise UserError(f"{out}: is the picture itself; give another name with --out")
