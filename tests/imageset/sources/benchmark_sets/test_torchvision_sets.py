"""Public sets through torchvision's own classes, fed from a server of this machine with small real archives."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imageset.decoding.decoder import decode
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.sources.benchmark_sets.torchvision_sets import TORCHVISION_SETS
from imageset.sources.factory import check_url, open_source
from imageset.utils import transient_errors
from tests.helpers.datasets import pack_folder, write_cifar10, write_idx
from tests.helpers.photographs import crop_photographs
from tests.helpers.servers import Site, serve_http


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setattr(transient_errors, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def site() -> Iterator[Site]:
    with serve_http() as running:
        yield running


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def digits(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Real digits as 28x28: uint8 (num, 28, 28), labels (num,)."""
    from imageset.sources.benchmark_sets.digits import load_digit_images

    pixels, labels = load_digit_images()
    big = [np.asarray(Image.fromarray(one).resize((28, 28))) for one in pixels[:num]]
    return np.stack(big), labels[:num].astype(np.uint8)


@pytest.fixture
def mnist(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """torchvision.datasets.FashionMNIST, fetched from here; its pixels: 20 for training, 10 for the test."""
    from torchvision.datasets import FashionMNIST

    pixels, labels = digits(30)
    resources = []
    for name, some in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        for kind, values in ((f"{name}-images-idx3-ubyte", pixels), (f"{name}-labels-idx1-ubyte", labels)):
            write_idx(tmp_path / kind, values[some])
            data = gzip.compress((tmp_path / kind).read_bytes())
            site.files[f"/fashion/{kind}.gz"] = data
            resources.append((f"{kind}.gz", md5(data)))
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{site.url}/fashion/"])
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    return pixels


def test_a_set_of_arrays_is_fetched_once_and_comes_with_names_and_splits(site: Site, mnist: np.ndarray) -> None:
    source = open_source("torchvision://FashionMNIST")
    asked, found = site.requests.copy(), list(source)
    assert source.name == "fashionmnist" and source.splits == {"train": 20, "test": 10}
    assert found[1].label == "Trouser" and found[1].uri == "train/000001.png" and found[29].split == "test"
    spec = DecodeSpec(28, 1, "crop", "nearest", 10**6)
    for one, pixels in zip(found, mnist, strict=True):
        np.testing.assert_array_equal(decode(one.read(), spec)[..., 0], pixels)
    assert "torchvision://FashionMNIST: 30 pictures in 10 classes (Ankle boot " in source.describe()
    assert "splits test 10, train 20; in .cache/torchvision/FashionMNIST" in source.describe()
    assert ingest_source("torchvision://FashionMNIST", "raw").num_new == len({one.read() for one in found})
    assert site.requests == asked and len(asked) == 4


def test_a_folder_that_does_not_hold_the_whole_set_is_named() -> None:
    folder = Path(".cache") / "torchvision" / "FashionMNIST"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"torchvision/FashionMNIST does not hold the whole set; remove the"):
        open_source("torchvision://FashionMNIST")


def test_a_download_that_breaks_off_is_tried_again(site: Site, mnist: np.ndarray) -> None:
    site.faults["/fashion/t10k-images-idx3-ubyte.gz"] = ["cut", 503]
    assert len(open_source("torchvision://FashionMNIST")) == 30


def test_a_download_that_fails_leaves_nothing(site: Site, mnist: np.ndarray) -> None:
    site.faults["/fashion/t10k-images-idx3-ubyte.gz"] = [503] * 99
    with pytest.raises(ConnectionError, match=r"torchvision://FashionMNIST: .*503.* after 4 attempts"):
        open_source("torchvision://FashionMNIST")
    assert list(Path(".cache/torchvision").iterdir()) == []
    site.faults.clear()
    del site.files["/fashion/t10k-images-idx3-ubyte.gz"]
    with pytest.raises(UserError, match=r"torchvision://FashionMNIST: .*HTTP Error 404"):
        open_source("torchvision://FashionMNIST")
    assert list(Path(".cache/torchvision").iterdir()) == []


def test_torch_home_says_where_sets_are_kept(
    site: Site, mnist: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    open_source("torchvision://FashionMNIST")
    assert [one.name for one in (tmp_path / "home" / "datasets").iterdir()] == ["FashionMNIST"]
    assert not Path(".cache").exists()


def test_cifar_comes_from_its_own_archive(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pictures: Any,
) -> None:
    from torchvision.datasets import CIFAR10

    folder = write_cifar10(tmp_path / "made" / "cifar-10-batches-py", pictures, "py")
    archive = pack_folder(tmp_path / "made", tmp_path / "cifar-10-python.tar.gz").read_bytes()
    site.files["/cifar-10-python.tar.gz"] = archive
    sums = {file.name: md5(file.read_bytes()) for file in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "url", f"{site.url}/cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: setattr(self, "classes", ["plane", "car", "bird"]))
    source = open_source("torchvision://CIFAR10")
    assert source.splits == {"train": 20, "test": 10}
    assert source.classes == {"plane": 10, "car": 10, "bird": 10}
    spec = DecodeSpec(32, 3, "crop", "nearest", 10**6)
    np.testing.assert_array_equal(decode(list(source)[7].read(), spec), pictures[0][7])


def test_a_set_of_files_gives_the_bytes_of_its_files(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    flowers = list(crop_photographs(("rose", "orchid"), 3).values())
    archive, served = io.BytesIO(), {}
    with tarfile.open(fileobj=archive, mode="w:gz") as target:
        for number, data in enumerate(flowers, 1):
            info = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    served["102flowers.tgz"] = archive.getvalue()
    tables = {"imagelabels.mat": {"labels": [1, 1, 1, 2, 2, 2]},
              "setid.mat": {"trnid": [1, 4], "valid": [2, 5], "tstid": [3, 6]}}  # fmt: skip
    for name, content in tables.items():
        savemat(tmp_path / name, content)
        served[name] = (tmp_path / name).read_bytes()
    site.files = {f"/102/{name}": data for name, data in served.items()}
    names = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    monkeypatch.setattr(Flowers102, "_download_url_prefix", f"{site.url}/102/")
    monkeypatch.setattr(Flowers102, "_file_dict", {key: (one, md5(served[one])) for key, one in names.items()})
    source = open_source("torchvision://Flowers102")
    assert source.splits == {"train": 2, "val": 2, "test": 2}
    assert [(one.split, one.label, one.read()) for one in source] == [
        ("train", "pink primrose", flowers[0]),
        ("train", "hard-leaved pocket orchid", flowers[3]),
        ("val", "pink primrose", flowers[1]),
        ("val", "hard-leaved pocket orchid", flowers[4]),
        ("test", "pink primrose", flowers[2]),
        ("test", "hard-leaved pocket orchid", flowers[5]),
    ]
    assert next(iter(source)).uri == "flowers-102/jpg/image_00001.jpg"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision://FashonMNIST", "did you mean 'FashionMNIST'"),
        ("torchvision://fashionmnist", "did you mean 'FashionMNIST'"),
        ("torchvision://", "known names: CIFAR10"),
    ],
)
def test_a_set_that_does_not_exist_is_answered_with_the_nearest(spec: str, message: str) -> None:
    for look in (open_source, check_url):
        with pytest.raises(UserError, match=message):
            look(spec)


def test_an_option_that_a_set_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match=r"'sise' is not an option of Imagenette; did you mean 'size'"):
        open_source("torchvision://Imagenette?sise=160px")
    with pytest.raises(UserError, match="Unknown value '7px' for argument size"):
        open_source("torchvision://Imagenette?size=7px")
    assert not list(Path(".cache/torchvision").iterdir())


@pytest.mark.parametrize("name", sorted(TORCHVISION_SETS))
def test_every_set_that_is_known_here_is_one_of_torchvisions_and_takes_these_splits(name: str) -> None:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    named = {key for one in kind.__mro__[:-1] for key in inspect.signature(one.__init__).parameters}
    assert {key for how in TORCHVISION_SETS[name].values() for key in how} | {"root", "download"} <= named


def test_fashion_mnist_of_debian_is_read_in_full() -> None:
    listed = subprocess.run(["dpkg", "-L", "dataset-fashion-mnist"], capture_output=True, text=True, check=False)
    files = [Path(line) for line in listed.stdout.splitlines() if "images-idx3" in line]
    if not files:
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    assert open_source(files[0].parent).splits == {"train": 60_000, "test": 10_000}
