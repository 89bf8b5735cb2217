"""Augmentation of whole batches on the device; each picture has its own draw.

Nothing here waits for a GPU: a draw of every picture is a tensor (N,), and what a picture is not to undergo has
the number that changes nothing. PyTorch's generator is seeded before each batch (docs/decisions/0003).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ROTATION_DEG = 30.0  # degrees, at strength 1; these five are the ends of RandAugment's scales
MAX_SHEAR = 0.3
MAX_SHIFT = 0.45  # part of the side
MAX_BLEND = 0.9  # how far from 1 the factor of brightness, contrast, saturation and sharpness goes
MAX_POSTERIZE_BITS = 4  # bits of 8 that posterizing takes away
GEOMETRIC_OPS = ("turn", "shear_x", "shear_y", "shift_x", "shift_y")
COLOUR_OPS = ("brightness", "contrast", "saturation", "sharpness", "posterize", "solarize", "autocontrast")
OPERATIONS = ("nothing", *GEOMETRIC_OPS, *COLOUR_OPS)
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


def shift_and_flip(images: Tensor, part: float, flip: bool) -> Tensor:
    """Move each picture by up to `part` of its side in both directions, the edge repeated, and turn it left-right
    with a chance of one half where `flip` says so.

    Bytes (N, H, W, C) -> (N, H, W, C), whole pixels, so no value is new. One pass, before bytes become numbers of
    four times their size.
    """
    if part <= 0 and not flip:
        return images
    n, height, width, channels = images.shape
    device = images.device
    rows = _draw_shifted_indices(n, height, part, device)  # (N, H)
    columns = _draw_shifted_indices(n, width, part, device)  # (N, W)
    if flip:
        turned = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    first = torch.arange(n, device=device)[:, None] * height  # row of each picture in all of them
    place = ((first + rows) * width)[:, :, None] + columns[:, None]  # (N, H, W)
    return images.reshape(-1, channels).index_select(0, place.flatten()).view(images.shape)


def rand_augment(images: Tensor, num_ops: int, strength: float) -> Tensor:
    """Apply `num_ops` operations, drawn for each picture from `OPERATIONS`, at up to `strength` (0 to 1).

    Args:
        images: (N, C, H, W), values 0 to 1.
        num_ops: operations one after the other; 0 leaves the pictures as they are.
        strength: 1 is the end of each operation's scale; the direction is drawn.

    The drawn geometric operations are one affine map a picture and so one resampling, before the others; the
    edge is repeated. Source: Cubuk et al., "RandAugment", 2019 (without its histogram equalization).
    """
    if num_ops <= 0:
        return images
    draws = [_draw_operations(len(images), strength, images.device) for _ in range(num_ops)]
    images = _apply_geometric(images, draws)
    for op, amount in draws:
        images = _apply_colour(images, op, amount)
    return images


def random_erasing(images: Tensor, chance: float) -> Tensor:
    """Put 0, the mean of normalized pictures, into a rectangle of some pictures, each its own.

    Of 2 to 33 parts in 100 of the area, and 0.3 to 3.3 times as high as wide. (N, C, H, W) -> (N, C, H, W).
    Source: Zhong et al., "Random Erasing Data Augmentation", 2017.
    """
    if chance <= 0:
        return images
    n, _, height, width = images.shape
    area = _draw_uniform(n, 0.02, 0.33, images.device)
    aspect = torch.exp(_draw_uniform(n, math.log(0.3), math.log(3.3), images.device))
    inside = _draw_boxes(n, height, width, (area * aspect).sqrt(), (area / aspect).sqrt(), images.device)
    hit = torch.rand(n, device=images.device) < chance
    return images.masked_fill(inside[:, None] & _expand_dims(hit), 0.0)


def apply_mixup_cutmix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Blend each picture with the one before it in the batch, and their targets alike.

    Args:
        images: (N, C, H, W).
        targets: (N, K), probabilities.
        mixup: alpha of the beta distribution of the blend, 0: off. Source: Zhang et al., "mixup", 2017.
        cutmix: the same for a rectangle taken over, 0: off. Source: Yun et al., "CutMix", 2019.

    Where both are on, each picture has one of them, with a chance of one half.
    """
    if mixup <= 0 and cutmix <= 0:
        return images, targets
    n, device = len(images), images.device
    cuts = torch.rand(n, device=device) < (0.5 if mixup > 0 and cutmix > 0 else float(cutmix > 0))
    share = torch.where(
        cuts, _draw_beta(n, cutmix, device), _draw_beta(n, mixup, device)
    )  # (N,) kept of each picture
    side = (1 - share).sqrt()
    height, width = images.shape[-2:]
    other = _draw_boxes(n, height, width, side, side, device)  # (N, H, W)
    kept = torch.where(_expand_dims(cuts)[:, 0], 1.0 - other.float(), share[:, None, None])
    part = kept.mean((1, 2))[:, None]  # (N, 1): a rectangle that meets the edge is smaller than drawn
    images = images * kept[:, None] + images.roll(1, 0) * (1 - kept[:, None])
    return images, targets * part + targets.roll(1, 0) * (1 - part)


def _draw_operations(n: int, strength: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each picture: the number of its operation, and how much of it, -strength to strength."""
    op = torch.randint(len(OPERATIONS), (n,), device=device)
    return op, _draw_uniform(n, -1.0, 1.0, device) * strength


def _apply_geometric(images: Tensor, draws: list[tuple[Tensor, Tensor]]) -> Tensor:
    """All drawn turns, shears and shifts as one affine map a picture."""
    n, _, height, width = images.shape
    total = torch.eye(3, device=images.device).expand(n, 3, 3)
    for op, amount in draws:
        turn, shear_x, shear_y, shift_x, shift_y = (
            torch.where(op == OPERATIONS.index(name), amount, 0.0) for name in GEOMETRIC_OPS
        )
        angle, one, zero = torch.deg2rad(turn * MAX_ROTATION_DEG), torch.ones_like(turn), torch.zeros_like(turn)
        stretch = width / height  # the grid runs from -1 to 1 along either side
        # shift by 2 x part: the grid is 2 wide
        rows = [
            [angle.cos(), shear_x * MAX_SHEAR - angle.sin() / stretch, shift_x * 2 * MAX_SHIFT],
            [shear_y * MAX_SHEAR + angle.sin() * stretch, angle.cos(), shift_y * 2 * MAX_SHIFT],
            [zero, zero, one],
        ]
        total = total @ torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(total[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _apply_colour(images: Tensor, op: Tensor, amount: Tensor) -> Tensor:
    """What changes values and moves nothing. Four operations are a blend with a poorer picture: black, the mean,
    grey, blurred."""

    def drawn(name: str) -> Tensor:
        return _expand_dims(op == OPERATIONS.index(name))

    grey = _to_grey(images)
    poorer = torch.zeros_like(images)
    poorer = torch.where(drawn("contrast"), grey.mean((2, 3), keepdim=True), poorer)
    poorer = torch.where(drawn("saturation"), grey, poorer)
    poorer = torch.where(drawn("sharpness"), F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), poorer)
    blends = drawn("brightness") | drawn("contrast") | drawn("saturation") | drawn("sharpness")
    factor = torch.where(blends, 1 + _expand_dims(amount) * MAX_BLEND, 1.0)
    images = (poorer + (images - poorer) * factor).clamp(0, 1)

    size = _expand_dims(amount).abs()
    step = torch.where(drawn("posterize"), 2 ** (size * MAX_POSTERIZE_BITS).round(), 1.0)  # in units of 1/255
    images = torch.where(drawn("posterize"), (images * 255 / step).floor() * step / 255, images)
    images = torch.where(drawn("solarize") & (images > 1 - size), 1 - images, images)

    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) / (high - low).clamp(min=1 / 255)
    return torch.where(drawn("autocontrast"), stretched, images)


def _to_grey(images: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) -> (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _draw_boxes(n: int, height: int, width: int, high: Tensor, wide: Tensor, device: torch.device) -> Tensor:
    """Rectangles of `high` x `wide` (N,), parts of the sides, about a drawn centre: bool (N, H, W)."""
    centre_y, centre_x = torch.rand(2, n, 1, device=device)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    rows, columns = (y - centre_y).abs() < high[:, None] / 2, (x - centre_x).abs() < wide[:, None] / 2
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


def _draw_shifted_indices(n: int, side: int, part: float, device: torch.device) -> Tensor:
    """Which row or column of the picture is seen at each place: (N, side)."""
    reach = round(side * part)
    offset = torch.randint(-reach, reach + 1, (n, 1), device=device)
    return (torch.arange(side, device=device) + offset).clamp(0, side - 1)
