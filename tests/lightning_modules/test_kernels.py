import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from flows.cli.main import main
from imageset.exceptions import UserError
from lightning_modules.kernels import (
    KERNELS,
    compute_output_size,
    convolve2d,
    parse_kernel,
    read_grey_image,
    rectify,
)
from tests.helpers.project import run_convoy

WORKED_IMAGE = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
WORKED_FILTER = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A colour picture of 20 x 12 px in an otherwise empty folder, which is no project."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return tmp_path / "photo.png"


def test_the_worked_example_of_the_textbook():
    feature_map = convolve2d(np.array(WORKED_IMAGE), np.array(WORKED_FILTER), stride=1, padding=0)
    assert feature_map.tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])
def test_stride_and_padding_mean_what_they_mean_in_pytorch(kernel, stride, padding):
    draws = np.random.default_rng(1)
    image, weights = draws.normal(size=(9, 14)), draws.normal(size=kernel)
    expected = F.conv2d(torch.tensor(image)[None, None], torch.tensor(weights)[None, None], None, stride, padding)
    result = convolve2d(image, weights, stride, padding)
    assert result.shape == expected.shape[2:]
    assert np.allclose(result, expected[0, 0])


def test_the_size_formula_rounds_down():
    assert [compute_output_size(7, 3, stride, 0) for stride in (1, 2, 3)] == [5, 3, 2]
    assert compute_output_size(7, 3, 1, 1) == 7


@pytest.mark.parametrize("name", KERNELS)
def test_edges_sum_to_zero_and_the_others_keep_brightness(name):
    assert parse_kernel(name).sum() == (0 if name in ("edge", "outline") else 1)


@pytest.mark.parametrize("text", ["1 0 1 0 1 0 1 0 1", "1,0,1,0,1,0,1,0,1", "1 0 1, 0 1 0, 1 0 1"])
def test_nine_numbers_are_a_kernel_row_by_row(text):
    assert parse_kernel(text).tolist() == WORKED_FILTER


def test_a_rectified_map_shows_nothing_below_zero_and_says_what_white_is():
    feature_map = np.array([[-5.0, 0.0], [20.0, 40.0]])
    pixels, how = rectify(feature_map, parse_kernel("edge"))
    assert pixels.tolist() == [[0, 0], [128, 255]]
    assert how == "rectified: below 0 is black, 40 is white"
    assert rectify(feature_map, parse_kernel("sharpen"))[0].tolist() == [[0, 0], [20, 40]]


def test_a_picture_is_read_whole_grey_and_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "grey.png", exif=sideways)
    assert np.array_equal(read_grey_image(tmp_path / "grey.png"), np.rot90(pixels, -1))


def test_the_command_writes_one_png_outside_any_project(photo):
    done = run_convoy(photo.parent, "kernels", "photo.png", "--kernel", "sharpen")
    assert done.returncode == 0, done.stdout
    assert done.stdout == (
        "kernels: picture 20 x 12, sharpen 3 x 3, stride 1, padding 0 -> feature map 18 x 10; "
        "photo.sharpen.png written\n"
    )
    with Image.open(photo.parent / "photo.sharpen.png") as page:
        assert page.format == "PNG" and page.width > page.height
    assert len(list(photo.parent.iterdir())) == 2


def test_a_kernel_of_ones_own_may_begin_with_a_minus(photo, capsys):
    numbers = "-1 0 1 -2 0 2 -1 0 1"
    assert (
        main(["kernels", "photo.png", "--kernel", numbers, "--stride", "2", "--padding", "1", "--out", "s.png"])
        == 0
    )
    assert "feature map 10 x 6; s.png written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photo.png", "--kernel", "sharpn"], "no kernel 'sharpn' (did you mean 'sharpen'?)"),
        (["photo.png", "--kernel", "1 2 3"], "3 numbers in '1 2 3'; give a name, or 9 numbers"),
        (["photo.png", "--kernel", "1 1 1 1 nan 1 1 1 1"], "numbers go from"),
        (["photo.png", "--kernel", "blur", "--stride", "0"], "--stride is 0"),
        (["photo.png", "--kernel", "blur", "--padding", "-1"], "--padding is -1"),
        (["photo.png", "--kernel", "blur", "--padding", "1000000"], "more than the whole picture (20 x 12)"),
        (["photo.png", "--kernel", "blur", "--out", "photo.png"], "is the picture itself"),
        (["photo.png", "--kernel", "blur", "--out", "page.jpg"], "ends in .png"),
        (["photo.png", "--kernel", "blur", "--out", "no/page.png"], "no: no such folder"),
        (["nowhere.png", "--kernel", "blur"], "nowhere.png: no such file"),
        (["notes.png", "--kernel", "blur"], "notes.png: not_an_image"),
        (["cut.png", "--kernel", "blur"], "cut.png: truncated"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_written(photo, arguments, said, capsys):
    (photo.parent / "notes.png").write_text("no picture")
    (photo.parent / "cut.png").write_bytes(photo.read_bytes()[:300])
    before = {path: path.read_bytes() for path in photo.parent.iterdir()}
    assert main(["kernels", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert said in captured.err
    assert {path: path.read_bytes() for path in photo.parent.iterdir()} == before


def test_a_kernel_larger_than_the_padded_picture_is_refused():
    with pytest.raises(UserError, match=r"kernel \(3 px\) is larger than the padded picture \(2 \+ 2 x 0 px\)"):
        convolve2d(np.zeros((2, 9)), np.ones((3, 3)), 1, 0)
