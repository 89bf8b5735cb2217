"""Image kernels: convolution, ReLU and pooling of an image by one filter of a convolutional network.

Sources: V. Powell, "Image Kernels Explained Visually" (https://setosa.io/ev/image-kernels/) for the idea and the
matrices (`edge` is the Laplacian); Stanford's UFLDL tutorial, "Feature extraction using convolution", for the
worked example of 5 x 5 by 3 x 3; V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning"
(arXiv:1603.07285) for the output's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name

PoolKind = Literal["max", "avg", "sum"]

KERNELS: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "edge": ((0, -1, 0), (-1, 4, -1), (0, -1, 0)),
    "outline": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "emboss": ((-2, -1, 0), (-1, 1, 1), (0, 1, 2)),
    "blur": ((0.0625, 0.125, 0.0625), (0.125, 0.25, 0.125), (0.0625, 0.125, 0.0625)),
}
MAX_KERNEL_VALUE = 1_000_000  # with larger numbers, sums of products lose the image
MAX_KERNEL_SIDE = 31  # px
MAX_KERNELS = 24  # of a folder
WHITE_PERCENTILE = 99.5  # of a map's numbers; from there on they are white
POOL_WINDOW = 2  # px, as in ConvNet's default


def parse_kernel(text: str, place: str = "--kernel") -> np.ndarray:
    """Return a kernel as float64 (k, k), with k odd.

    Args:
        text: a name in `KERNELS`, or k * k numbers row by row, separated by spaces, commas or new lines.
        place: the option or the file that the text comes from, for messages.

    Raises:
        UserError: `text` is no such name and not 1, 9, 25, ... numbers from -1,000,000 to 1,000,000.
    """
    if text in KERNELS:
        return np.array(KERNELS[text], dtype=np.float64)
    words = text.replace(",", " ").split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        hint = suggest_name(text.lower(), KERNELS)
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise UserError(
            f"{place}: no kernel {shown!r} ({hint}); give a name, a folder, or k x k numbers with k odd"
        ) from None
    side = math.isqrt(len(numbers))
    if side * side != len(numbers) or side % 2 == 0:
        raise UserError(
            f"{place}: {len(numbers)} numbers; give a name, or k x k numbers with k odd: 1, 9, 25, 49 ..."
        )
    if side > MAX_KERNEL_SIDE:
        raise UserError(f"{place}: {side} x {side} numbers; give at most {MAX_KERNEL_SIDE} x {MAX_KERNEL_SIDE}")
    if not (np.abs(numbers) <= MAX_KERNEL_VALUE).all():
        raise UserError(
            f"{place}: numbers go from {-MAX_KERNEL_VALUE:,} to {MAX_KERNEL_VALUE:,}; there is another one"
        )
    return numbers.reshape(side, side)


def read_kernel_folder(folder: Path) -> dict[str, np.ndarray]:
    """Return the kernels of a folder, sorted by name: NAME.txt holds the numbers of the kernel NAME.

    Raises:
        UserError: the folder has no such file or too many, or one cannot be read or is no kernel.
    """
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise UserError(f"{folder}: no kernels; put files NAME.txt there, each with k x k numbers, k odd")
    if len(paths) > MAX_KERNELS:
        raise UserError(f"{folder}: {len(paths)} kernels; at most {MAX_KERNELS} are drawn, so move some elsewhere")
    try:
        return {path.stem: parse_kernel(path.read_text(encoding="utf-8").strip(), str(path)) for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}: a kernel cannot be read ({error}); give text files with numbers") from None


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
    """Slide a kernel over each channel of an image and sum the products: (H, W, C), (k, l) -> float64 (H', W', C).

    H' = (H + 2 padding - k) / stride + 1, rounded down, and W' likewise. The image is surrounded by `padding` px
    of zeros. As in all convolutional networks the kernel is not flipped (in mathematics: cross-correlation).

    Raises:
        UserError: see `compute_output_size`.
    """
    sizes = zip(image.shape[:2], kernel.shape, strict=True)
    shape = [compute_output_size(side, k, stride, padding) for side, k in sizes]
    feature_map = np.zeros([*shape, image.shape[2]])
    padded = np.pad(image.astype(np.float64), ((padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(padded, kernel.shape, axis=(0, 1))[
        ::stride, ::stride
    ]  # (H', W', C, k, l), a view
    for row, column in np.ndindex(*kernel.shape):
        feature_map += kernel[row, column] * windows[..., row, column]
    return feature_map


def pool2d(feature_map: np.ndarray, kind: PoolKind) -> np.ndarray:
    """Return the maximum, mean or sum of each 2 x 2 window of a map: (H, W, C) -> (H // 2, W // 2, C).

    Raises:
        UserError: the map is smaller than the window.
    """
    height, width = (side // POOL_WINDOW for side in feature_map.shape[:2])
    if not height or not width:
        raise UserError(
            f"--pool: the feature map ({feature_map.shape[1]} x {feature_map.shape[0]}) is smaller than the "
            f"window of {POOL_WINDOW} x {POOL_WINDOW}; give a larger picture, or raise --padding"
        )
    whole = feature_map[: height * POOL_WINDOW, : width * POOL_WINDOW]
    windows = whole.reshape(height, POOL_WINDOW, width, POOL_WINDOW, -1)
    if kind == "max":
        return np.asarray(windows.max(axis=(1, 3)))
    return np.asarray(windows.mean(axis=(1, 3)) if kind == "avg" else windows.sum(axis=(1, 3)))


def rectify(feature_map: np.ndarray, keeps_brightness: bool) -> tuple[np.ndarray, str]:
    """Return a feature map (H, W, C) after ReLU as an image, uint8 (H, W, C), and a description of the scale.

    Values below 0 are black. If brightness is kept, white is 255 and more, as in the image. Otherwise a few of the
    largest values are white: by the very largest alone, a map of edges would be nearly black.
    """
    white = 255.0
    if not keeps_brightness:
        bright = float(np.percentile(feature_map, WHITE_PERCENTILE, method="higher"))
        white = max(bright if bright > 0 else float(feature_map.max()), 1e-9)
    pixels = np.rint(feature_map.clip(0, white) * (255 / white)).astype(np.uint8)
    return pixels, f"rectified: below 0 is black, {white:.4g} and more is white"


def is_brightness_kept(kernel: np.ndarray, pool: PoolKind | None) -> bool:
    """Return whether maps are as bright as the image: the kernel sums to 1, and windows are not added up."""
    return bool(np.isclose(kernel.sum(), 1)) and pool != "sum"
