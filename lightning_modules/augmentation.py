"""Augmentation of whole batches on the device, with random draws for each image.

Nothing here waits for a GPU: the draws of all images are tensors (N,), and an image that an operation does not
apply to has the value that changes nothing. PyTorch's generator is seeded before each batch (docs/decisions/0003).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ROTATION_DEG = 30.0  # degrees; this and the next four are the values at strength 1 of RandAugment
MAX_SHEAR = 0.3
MAX_SHIFT = 0.45  # share of the side
MAX_BLEND = 0.9  # largest distance from 1 of the factor of brightness, contrast, saturation and sharpness
MAX_POSTERIZE_BITS = 4  # of 8 bits, removed by posterizing
GEOMETRIC_OPS = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")
COLOUR_OPS = ("brightness", "contrast", "saturation", "sharpness", "posterize", "solarize", "autocontrast")
OPERATIONS = ("identity", *GEOMETRIC_OPS, *COLOUR_OPS)
MAX_LOG_ASPECT = math.log(4 / 3)  # of a random crop
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


def shift_and_flip(images: Tensor, max_shift: float, flip: bool) -> Tensor:
    """Shift each image in both directions at random, repeating its edge, and flip it horizontally at random.

    Images move by whole pixels, so no new values appear. Both are one pass over bytes, before the conversion to
    floats of four times their size.

    Args:
        images: uint8 (N, H, W, C); the result has the same shape.
        max_shift: largest shift, as a share of the side.
        flip: whether to flip images, each with probability 0.5.
    """
    if max_shift <= 0 and not flip:
        return images
    n, height, width, channels = images.shape
    device = images.device
    rows = _draw_shifted_indices(n, height, max_shift, device)  # (N, H)
    columns = _draw_shifted_indices(n, width, max_shift, device)  # (N, W)
    if flip:
        flipped = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    first_rows = torch.arange(n, device=device)[:, None] * height  # (N, 1), of each image among the rows of all
    index = ((first_rows + rows) * width)[:, :, None] + columns[:, None]  # (N, H, W)
    return images.reshape(-1, channels).index_select(0, index.flatten()).view(images.shape)


def random_resized_crop(images: Tensor, min_area: float) -> Tensor:
    """Enlarge a random part of each image to its full size, so that things appear at different distances.

    The part has at least `min_area` of the area and is 3/4 to 4/3 times as wide as high, but never wider or higher
    than the image. Source: C. Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842.

    Args:
        images: (N, C, H, W), values 0 to 1; the result has the same shape.
        min_area: smallest share of the area; 1 returns the images unchanged.
    """
    if min_area >= 1:
        return images
    n, device = len(images), images.device
    area = _draw_uniform(n, min_area, 1.0, device)
    aspect = torch.exp(_draw_uniform(n, -MAX_LOG_ASPECT, MAX_LOG_ASPECT, device))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    centre_x = _draw_uniform(n, -1.0, 1.0, device) * (1 - width)  # the grid runs from -1 to 1 along both sides
    centre_y = _draw_uniform(n, -1.0, 1.0, device) * (1 - height)
    zeros = torch.zeros_like(width)
    maps = torch.stack([torch.stack([width, zeros, centre_x], 1), torch.stack([zeros, height, centre_y], 1)], 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def rand_augment(images: Tensor, num_ops: int, strength: float) -> Tensor:
    """Apply operations to each image that are drawn at random from `OPERATIONS`.

    The geometric operations of an image are combined into one affine map, and so one resampling, before the
    others; the edge is repeated. Source: Cubuk et al., "RandAugment", 2019 (without its histogram equalization).

    Args:
        images: (N, C, H, W), values 0 to 1.
        num_ops: number of operations for each image; 0 returns the images unchanged.
        strength: largest strength, 0 to 1; the strength and its sign are drawn at random.
    """
    if num_ops <= 0:
        return images
    draws = [_draw_operations(len(images), strength, images.device) for _ in range(num_ops)]
    images = _apply_geometric(images, draws)
    for op, amount in draws:
        images = _apply_colour(images, op, amount)
    return images


def random_erasing(images: Tensor, probability: float) -> Tensor:
    """Fill a random rectangle of some images with 0, the mean of normalized images.

    The rectangle has 2% to 33% of the area, and is 0.3 to 3.3 times as high as wide. Source: Zhong et al., "Random
    Erasing Data Augmentation", 2017.

    Args:
        images: normalized (N, C, H, W); the result has the same shape.
        probability: with which an image has a rectangle.
    """
    if probability <= 0:
        return images
    n, _, height, width = images.shape
    area = _draw_uniform(n, 0.02, 0.33, images.device)
    aspect = torch.exp(_draw_uniform(n, math.log(0.3), math.log(3.3), images.device))
    inside = _draw_boxes(n, height, width, (area * aspect).sqrt(), (area / aspect).sqrt(), images.device)
    selected = torch.rand(n, device=images.device) < probability
    return images.masked_fill(inside[:, None] & _expand_dims(selected), 0.0)


def apply_mixup_cutmix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix each image with the previous image of the batch, and their targets in the same proportion.

    If both kinds are on, each image has one of them, with probability 0.5 each.

    Args:
        images: (N, C, H, W).
        targets: (N, K), probabilities.
        mixup: alpha of the beta distribution of the blend, 0: off. Source: Zhang et al., "mixup", 2017.
        cutmix: alpha for the area of a rectangle that is replaced, 0: off. Source: Yun et al., "CutMix", 2019.
    """
    if mixup <= 0 and cutmix <= 0:
        return images, targets
    n, device = len(images), images.device
    cuts = torch.rand(n, device=device) < (0.5 if mixup > 0 and cutmix > 0 else float(cutmix > 0))
    # (N,), kept of each image
    share = torch.where(cuts, _draw_beta(n, cutmix, device), _draw_beta(n, mixup, device))
    side = (1 - share).sqrt()
    height, width = images.shape[-2:]
    replaced = _draw_boxes(n, height, width, side, side, device)  # (N, H, W)
    kept = torch.where(_expand_dims(cuts)[:, 0], 1.0 - replaced.float(), share[:, None, None])
    kept_share = kept.mean((1, 2))[:, None]  # (N, 1); a rectangle at the edge is smaller than drawn
    images = images * kept[:, None] + images.roll(1, 0) * (1 - kept[:, None])
    return images, targets * kept_share + targets.roll(1, 0) * (1 - kept_share)


def _draw_operations(n: int, strength: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw for each image the index of its operation (N,), and its amount (N,) from -strength to strength."""
    op = torch.randint(len(OPERATIONS), (n,), device=device)
    return op, _draw_uniform(n, -1.0, 1.0, device) * strength


def _apply_geometric(images: Tensor, draws: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Apply the drawn rotations, shears and shifts as one affine map for each image."""
    n, _, height, width = images.shape
    total = torch.eye(3, device=images.device).expand(n, 3, 3)
    for op, amount in draws:
        rotate, shear_x, shear_y, shift_x, shift_y = (
            torch.where(op == OPERATIONS.index(name), amount, 0.0) for name in GEOMETRIC_OPS
        )
        angle = torch.deg2rad(rotate * MAX_ROTATION_DEG)
        ones, zeros = torch.ones_like(angle), torch.zeros_like(angle)
        stretch = width / height  # the grid runs from -1 to 1 along both sides
        # twice the share of a shift, since the grid is 2 wide
        rows = [
            [angle.cos(), shear_x * MAX_SHEAR - angle.sin() / stretch, shift_x * 2 * MAX_SHIFT],
            [shear_y * MAX_SHEAR + angle.sin() * stretch, angle.cos(), shift_y * 2 * MAX_SHIFT],
            [zeros, zeros, ones],
        ]
        total = total @ torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(total[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _apply_colour(images: Tensor, op: Tensor, amount: Tensor) -> Tensor:
    """Apply the drawn operations that change values and no positions.

    Brightness, contrast, saturation and sharpness blend the image with a degenerate one: black, its mean, its grey
    version, or its blurred version.
    """

    def is_drawn(name: str) -> Tensor:
        return _expand_dims(op == OPERATIONS.index(name))

    grey = _to_grey(images)
    degenerate = torch.zeros_like(images)
    degenerate = torch.where(is_drawn("contrast"), grey.mean((2, 3), keepdim=True), degenerate)
    degenerate = torch.where(is_drawn("saturation"), grey, degenerate)
    degenerate = torch.where(
        is_drawn("sharpness"), F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), degenerate
    )
    blends = is_drawn("brightness") | is_drawn("contrast") | is_drawn("saturation") | is_drawn("sharpness")
    factor = torch.where(blends, 1 + _expand_dims(amount) * MAX_BLEND, 1.0)
    images = (degenerate + (images - degenerate) * factor).clamp(0, 1)

    size = _expand_dims(amount).abs()
    step = torch.where(is_drawn("posterize"), 2 ** (size * MAX_POSTERIZE_BITS).round(), 1.0)  # in units of 1/255
    images = torch.where(is_drawn("posterize"), (images * 255 / step).floor() * step / 255, images)
    images = torch.where(is_drawn("solarize") & (images > 1 - size), 1 - images, images)

    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) / (high - low).clamp(min=1 / 255)
    return torch.where(is_drawn("autocontrast"), stretched, images)


def _to_grey(images: Tensor) -> Tensor:
    """Convert (N, 1 or 3, H, W) to (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _draw_boxes(
    n: int, height: int, width: int, box_height: Tensor, box_width: Tensor, device: torch.device
) -> Tensor:
    """Draw the centres of rectangles of `box_height` x `box_width` (N,), shares of the sides: bool (N, H, W)."""
    centre_y, centre_x = torch.rand(2, n, 1, device=device)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    rows = (y - centre_y).abs() < box_height[:, None] / 2
    columns = (x - centre_x).abs() < box_width[:, None] / 2
    return rows[:, :, None] & columns[:, None, :]


def _draw_beta(n: int, alpha: float, device: torch.device) -> Tensor:
    if alpha <= 0:
        return torch.ones(n, device=device)
    concentration = torch.full((n,), float(alpha), device=device)
    return torch.distributions.Beta(concentration, concentration).sample()


def _draw_uniform(n: int, low: float, high: float, device: torch.device) -> Tensor:
    return torch.rand(n, device=device) * (high - low) + low


def _expand_dims(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _draw_shifted_indices(n: int, side: int, max_shift: float, device: torch.device) -> Tensor:
    """Draw a shift for each image, and return the row or column of the image at each position: (N, side)."""
    max_offset = round(side * max_shift)
    offset = torch.randint(-max_offset, max_offset + 1, (n, 1), device=device)
    return (torch.arange(side, device=device) + offset).clamp(0, side - 1)
