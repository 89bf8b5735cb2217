import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from flows.cli.main import main
from imageset.exceptions import UserError
from lightning_modules.kernels.convolution import (
    KERNELS,
    compute_output_size,
    convolve2d,
    is_brightness_kept,
    parse_kernel,
    pool2d,
    rectify,
)
from lightning_modules.kernels.page import read_image
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
    feature_map = convolve2d(np.array(WORKED_IMAGE)[..., None], np.array(WORKED_FILTER), stride=1, padding=0)
    assert feature_map[..., 0].tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])
def test_stride_and_padding_mean_what_they_mean_in_pytorch(kernel, stride, padding):
    draws = np.random.default_rng(1)
    image, weights = draws.normal(size=(9, 14, 3)), draws.normal(size=kernel)
    channels = torch.tensor(image).permute(2, 0, 1)[:, None]  # each channel is an image of its own
    expected = F.conv2d(channels, torch.tensor(weights)[None, None], None, stride, padding)
    result = convolve2d(image, weights, stride, padding)
    assert result.shape == (*expected.shape[2:], 3)
    assert np.allclose(result, expected[:, 0].permute(1, 2, 0))


def test_pooling_means_what_it_means_in_pytorch():
    maps = np.random.default_rng(1).normal(size=(7, 10, 3))
    x = torch.tensor(maps).permute(2, 0, 1)[None]
    for kind, expected in (
        ("max", F.max_pool2d(x, 2)), ("avg", F.avg_pool2d(x, 2)), ("sum", 4 * F.avg_pool2d(x, 2)),
    ):  # fmt: skip
        assert np.allclose(pool2d(maps, kind), expected[0].permute(1, 2, 0))


def test_the_size_formula_rounds_down():
    assert [compute_output_size(7, 3, stride, 0) for stride in (1, 2, 3)] == [5, 3, 2]
    assert compute_output_size(7, 3, 1, 1) == 7


@pytest.mark.parametrize("name", KERNELS)
def test_edges_sum_to_zero_and_the_others_keep_brightness(name):
    assert parse_kernel(name).sum() == (0 if name in ("edge", "outline") else 1)


@pytest.mark.parametrize("text", ["1 0 1 0 1 0 1 0 1", "1,0,1,0,1,0,1,0,1", "1 0 1, 0 1 0, 1 0 1"])
def test_nine_numbers_are_a_kernel_row_by_row(text):
    assert parse_kernel(text).tolist() == WORKED_FILTER


@pytest.mark.parametrize("side", [1, 5, 7])
def test_a_kernel_may_have_any_odd_side(side):
    numbers = np.arange(side**2)
    assert np.array_equal(parse_kernel(" ".join(map(str, numbers))), numbers.reshape(side, side))


def test_a_rectified_map_shows_nothing_below_zero_and_says_what_white_is():
    feature_map = np.array([[-5.0, 0.0], [20.0, 40.0]])[..., None]
    pixels, how = rectify(feature_map, is_brightness_kept(parse_kernel("edge"), None))
    assert pixels[..., 0].tolist() == [[0, 0], [128, 255]]
    assert how == "rectified: below 0 is black, 40 and more is white"
    assert is_brightness_kept(parse_kernel("sharpen"), "max") and not is_brightness_kept(
        parse_kernel("blur"), "sum"
    )
    assert rectify(feature_map, keeps_brightness=True)[0][..., 0].tolist() == [[0, 0], [20, 40]]


def test_one_bright_spot_does_not_make_a_map_of_edges_black():
    feature_map = np.full((50, 50, 1), 10.0)
    feature_map[0, 0] = 1000
    pixels, how = rectify(feature_map, keeps_brightness=False)
    assert (pixels == 255).all() and how.endswith("10 and more is white")
    feature_map[:] = -1
    feature_map[0, 0] = 8  # too few to matter, and yet all there is
    assert rectify(feature_map, keeps_brightness=False)[0].max() == 255


def test_a_picture_is_read_whole_grey_and_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "grey.png", exif=sideways)
    assert np.array_equal(read_image(tmp_path / "grey.png", 1)[..., 0], np.rot90(pixels, -1))
    assert np.array_equal(read_image(tmp_path / "grey.png", 3)[..., 2], np.rot90(pixels, -1))


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


def test_pooling_is_drawn_beside_the_map(photo, capsys):
    assert main(["kernels", "photo.png", "--kernel", "edge", "--out", "plain.png"]) == 0
    assert main(["kernels", "photo.png", "--kernel", "edge", "--pool", "max", "--out", "pooled.png"]) == 0
    assert "feature map 18 x 10, max pooling 9 x 5; pooled.png written" in capsys.readouterr().out
    with Image.open("plain.png") as plain, Image.open("pooled.png") as pooled:
        assert pooled.width > plain.width + 100


def test_in_colour_each_of_red_green_and_blue_is_filtered(photo):
    """The identity leaves the colours of the picture; the grey page has none."""
    for arguments in ([], ["--colour"]):
        assert main(["kernels", "photo.png", "--kernel", "1", "--out", "page.png", *arguments]) == 0
        with Image.open("page.png") as page:
            picture = np.asarray(page)[30:300, 30:480].astype(int)
        assert (np.ptp(picture, axis=2).max() > 50) == bool(arguments)


def test_the_kernels_of_a_folder_are_drawn_side_by_side(photo, capsys):
    folder = photo.parent / "mine"
    folder.mkdir()
    (folder / "sobel.txt").write_text("-1 0 1\n-2 0 2\n-1 0 1\n")
    (folder / "mean.txt").write_text("\n".join([", ".join(["0.04"] * 5)] * 5))
    (folder / "notes.md").write_text("no kernel")
    assert main(["kernels", "photo.png", "--kernel", "mine", "--pool", "avg"]) == 0
    said = capsys.readouterr().out
    assert said == (
        "kernels: picture 20 x 12, 2 kernels of mine, stride 1, padding 0 -> feature maps 16 x 8, avg pooling "
        "8 x 4 or 18 x 10, avg pooling 9 x 5; photo.mine.png written\n"
    )
    with Image.open("photo.mine.png") as page:
        assert page.width > 3 * 250


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "empty: no kernels; put files NAME.txt there"),
        ({"a.txt": "1 2 3 4"}, "a.txt: 4 numbers; give a name, or k x k numbers with k odd"),
        ({"a.txt": "edgy"}, "a.txt: no kernel 'edgy'"),
        ({f"{i}.txt": "1" for i in range(25)}, "25 kernels; at most 24 are drawn"),
    ],
)
def test_a_folder_that_holds_no_kernels_is_explained(photo, files, said, capsys):
    folder = photo.parent / "empty"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    assert main(["kernels", "photo.png", "--kernel", "empty"]) == 2
    assert said in capsys.readouterr().err and not list(photo.parent.glob("photo.*.png"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photo.png", "--kernel", "sharpn"], "no kernel 'sharpn' (did you mean 'sharpen'?)"),
        (["photo.png", "--kernel", "1 2 3"], "3 numbers; give a name, or k x k numbers with k odd"),
        (["photo.png", "--kernel", "1 1 1 1 nan 1 1 1 1"], "numbers go from"),
        (["photo.png", "--kernel", "1 2 3 4"], "4 numbers; give a name, or k x k numbers with k odd"),
        (["photo.png", "--kernel", " ".join("0" * 33**2)], "33 x 33 numbers; give at most 31 x 31"),
        (
            ["photo.png", "--kernel", "0 " * 121, "--pool", "max", "--stride", "2"],
            "smaller than the window of 2 x 2",
        ),
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
        convolve2d(np.zeros((2, 9, 1)), np.ones((3, 3)), 1, 0)
