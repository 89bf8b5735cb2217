import pytest
import torch
import torch.nn.functional as F

from lightning_modules.augmentation import (
    OPERATIONS,
    _apply_colour,
    _apply_geometric,
    apply_mixup_cutmix,
    rand_augment,
    random_erasing,
    random_resized_crop,
    shift_and_flip,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_picture_is_shifted_by_its_own_draw_and_no_value_is_new():
    torch.manual_seed(0)
    images = torch.arange(100, dtype=torch.uint8).view(1, 10, 10, 1).repeat(32, 1, 1, 1)
    moved = shift_and_flip(images, 0.2, flip=False)
    assert moved.shape == images.shape
    assert len({picture.numpy().tobytes() for picture in moved}) > 10
    assert set(moved.flatten().tolist()) <= set(images.flatten().tolist())
    assert torch.equal(shift_and_flip(images, 0.0, flip=False), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_moves_rows_and_columns_and_repeats_the_edge(channels):
    torch.manual_seed(1)
    image = torch.arange(100, dtype=torch.uint8).view(1, 10, 10, 1).repeat(1, 1, 1, channels)
    moved = shift_and_flip(image, 0.3, flip=False)[0]
    assert all(torch.equal(moved[..., channel], moved[..., 0]) for channel in range(channels))
    rows, columns = moved[:, 5, 0].int().div(10).floor(), moved[5, :, 0].int().remainder(10)
    assert set(rows.diff().tolist()) <= {0.0, 1.0} and set(columns.diff().tolist()) <= {0, 1}


def test_a_flip_turns_some_pictures_left_right():
    torch.manual_seed(0)
    images = torch.arange(4, dtype=torch.uint8).view(1, 1, 4, 1).repeat(50, 1, 1, 1)
    seen = {tuple(picture.flatten().tolist()) for picture in shift_and_flip(images, 0.0, flip=True)}
    assert seen == {(0, 1, 2, 3), (3, 2, 1, 0)}


IMAGES = torch.rand(16, 3, 12, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("change", ["rand_augment", "erasing"])
def test_each_picture_has_its_own_draw(change):
    same = IMAGES[:1].expand(64, -1, -1, -1).contiguous()
    torch.manual_seed(0)
    out = rand_augment(same, 1, 1.0) if change == "rand_augment" else random_erasing(same, 1.0)
    assert len({picture.numpy().tobytes() for picture in out}) > 30


def draw_operation(name: str, amount: float) -> tuple[torch.Tensor, torch.Tensor]:
    op = torch.full((len(IMAGES),), OPERATIONS.index(name))
    return op, torch.full((len(IMAGES),), amount)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "identity"])
def test_every_operation_changes_pictures_and_leaves_values_between_0_and_1(name):
    op, amount = draw_operation(name, 0.7)
    out = _apply_colour(_apply_geometric(IMAGES, [(op, amount)]), op, amount)
    assert not torch.allclose(out, IMAGES, atol=1e-3)
    assert out.min() >= 0 and out.max() <= 1


def test_the_operation_nothing_changes_nothing():
    op, amount = draw_operation("identity", 1.0)
    assert torch.allclose(_apply_colour(_apply_geometric(IMAGES, [(op, amount)]), op, amount), IMAGES, atol=1e-6)


def test_a_shift_by_the_grid_moves_by_that_part_of_the_side():
    out = _apply_geometric(IMAGES, [draw_operation("shift_x", 1.0)])
    columns = round(0.45 * 20)  # 9 px
    assert torch.allclose(out[..., : 20 - columns], IMAGES[..., columns:], atol=1e-5)


def test_a_turn_keeps_lengths_in_pictures_that_are_not_square():
    image = torch.zeros(1, 1, 61, 121)
    image[..., 30, 30:91] = 1.0  # a line of 61 px through the centre
    out = _apply_geometric(image, [(torch.tensor([OPERATIONS.index("rotate")]), torch.tensor([1.0]))])[0, 0]
    rows, columns = torch.nonzero(out > 0.3, as_tuple=True)
    length = torch.hypot((rows.max() - rows.min()).float(), (columns.max() - columns.min()).float())
    assert length == pytest.approx(60, abs=2)
    assert (rows.max() - rows.min()) == pytest.approx(30, abs=2)  # sin 30 degrees


def test_the_targets_of_cutmix_are_the_parts_of_the_area():
    torch.manual_seed(0)
    black_and_white = torch.tensor([0.0, 1.0] * 8)[:, None, None, None].expand(-1, 1, 32, 32)
    x, targets = apply_mixup_cutmix(black_and_white, F.one_hot(torch.tensor([0, 1] * 8), 2).float(), 0.0, 1.0)
    assert torch.allclose(x.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_with_mixup_and_cutmix_each_picture_has_one_of_them():
    torch.manual_seed(0)
    black_and_white = torch.tensor([0.0, 1.0] * 32)[:, None, None, None].expand(-1, 1, 32, 32)
    x, _ = apply_mixup_cutmix(black_and_white, torch.eye(2).repeat(32, 1), 1.0, 1.0)
    cut = [set(picture.unique().tolist()) <= {0.0, 1.0} for picture in x]
    assert any(cut) and not all(cut)


def test_a_random_crop_is_a_part_of_the_image_of_at_least_the_smallest_area():
    torch.manual_seed(0)
    side = 64
    ramp = (torch.arange(side) + 0.5) / side  # the value of a pixel is its place, from 0 to 1
    x, y = ramp.view(1, 1, 1, side).expand(200, 1, side, side), ramp.view(1, 1, side, 1).expand(200, 1, side, side)
    draws = torch.get_rng_state()
    columns = random_resized_crop(x.contiguous(), 0.25)
    torch.set_rng_state(draws)
    rows = random_resized_crop(y.contiguous(), 0.25)
    inner = side - 2  # pixels between the centres of the second and the last but one
    width = (columns[:, 0, 0, -2] - columns[:, 0, 0, 1]) * side / (inner - 1)
    height = (rows[:, 0, -2, 0] - rows[:, 0, 1, 0]) * side / (inner - 1)
    area = width * height
    assert 0.2 < area.min() < 0.35 and 0.8 < area.max() <= 1.02
    assert ((width / height > 0.7) & (width / height < 1.4)).all()
    assert columns.min() >= 0 and columns.max() <= 1
    left = columns[:, 0, 0, 0]
    assert left.min() < 0.05 and left.max() > 0.3  # parts of all places
    assert torch.equal(random_resized_crop(x, 1.0), x)
