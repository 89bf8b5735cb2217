from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from imageset.check import check_source
from imageset.decoding.decoder import decode
from imageset.exceptions import UserError
from imageset.normalize.stage import normalize
from imageset.raw.damage import find_damaged_raw_files
from imageset.raw.ingestion import ingest_source
from imageset.raw.shards import read_image_bytes
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, make_store, snapshot
from tests.helpers.images import encode_noise, make_image_folder


def refusals(store: ImageStore) -> dict[str, str]:
    return {row["uri"]: row["reason"] for row in pq.read_table(store.path / "rejected.parquet").to_pylist()}


def test_every_picture_comes_out_as_the_decoder_gives_it(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"))
    assert sum(store.counts.values()) == 40 and store.classes == ("ant", "bee") and store.spec.channels == 3
    for name in ("train", "val", "test"):
        split = store.split(name)
        pixels = split.read_batch(np.arange(len(split))[::-1])
        originals = read_image_bytes(tmp_path / "raw", split.image_ids[::-1])
        for row, (_, data) in zip(pixels, originals, strict=True):
            np.testing.assert_array_equal(row, decode(data, store.spec))
        assert [store.classes[label] for label in split.labels] == [uri.split("/")[0] for uri in split.uris]


def test_mean_and_std_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"))
    train = store.split("train")
    pixels = train.read_batch(np.arange(len(train))) / 255
    np.testing.assert_allclose(store.mean, pixels.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(store.std, pixels.std((0, 1, 2)), atol=1e-12)


def test_the_same_pictures_give_the_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    ingest_source(make_image_folder(tmp_path / "set"), tmp_path / "raw")
    for workers in (1, 3):
        normalize(tmp_path / "raw", tmp_path / str(workers), NORMALIZE_PARAMS, workers=workers)
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "3")


def test_the_fingerprint_knows_the_pictures_and_not_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = make_image_folder(tmp_path / "set", num_each=10)
    ingest_source(source, tmp_path / "a" / "raw")
    make_image_folder(source, num_each=10, first=10)
    grown, fresh = make_store(tmp_path / "a", source), make_store(tmp_path / "b", source)
    assert grown.index["uri"].to_pylist() != fresh.index["uri"].to_pylist()
    assert grown.fingerprint == fresh.fingerprint
    assert make_store(tmp_path / "b", source, size_px=17).fingerprint != fresh.fingerprint


def test_bad_pictures_are_rows_with_a_reason_and_the_run_goes_on(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    (source / "ant" / "empty.jpg").touch()
    (source / "ant" / "text.jpg").write_text("no picture")
    (source / "bee" / "cut.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    (source / "bee" / "copy.png").write_bytes((source / "bee" / "0000.png").read_bytes())
    (source / "ant" / "other.png").write_bytes((source / "bee" / "0001.png").read_bytes())
    (source / "stray.png").write_bytes(encode_noise(6))
    store = make_store(tmp_path, source, max_reject_fraction=0.5)
    assert refusals(store) == {
        "ant/empty.jpg": "empty",
        "ant/text.jpg": "not_an_image",
        "bee/cut.png": "truncated",
        "bee/copy.png": "duplicate",
        "ant/other.png": "label_conflict",
        "bee/0001.png": "label_conflict",
        "stray.png": "unlabelled",
    }
    assert sum(store.counts.values()) == 39
    train = store.split("train")
    for row, (_, data) in zip(
        train.read_batch(np.arange(len(train))), read_image_bytes(tmp_path / "raw", train.image_ids), strict=True
    ):
        np.testing.assert_array_equal(row, decode(data, store.spec))


def test_too_many_bad_pictures_stop_the_stage_and_leave_the_earlier_dataset(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    make_store(tmp_path, source)
    before = snapshot(tmp_path / "normalized")
    for number in range(5):
        (source / "ant" / f"page{number}.jpg").write_text(f"<html>{number}")
    ingest_source(source, tmp_path / "raw")
    with pytest.raises(UserError, match=r"5 of 45 pictures are refused \(5 not_an_image\).*web page"):
        normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1)
    assert snapshot(tmp_path / "normalized") == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["normalized", "raw", "set"]


def test_automatic_size_and_channels_follow_the_pictures(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"), size_px="auto")
    assert store.spec.shape == (32, 32, 3)


def test_a_dataset_of_grey_pictures_has_one_channel(tmp_path: Path) -> None:
    ingest_source("sklearn://digits", tmp_path / "raw")
    summary = normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS | {"size_px": 8}, workers=2)
    assert summary.spec.shape == (8, 8, 1) and sum(summary.counts.values()) == 1797


def test_a_vanished_picture_leaves_the_next_dataset(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    make_store(tmp_path, source)
    (source / "ant" / "0003.png").unlink()
    store = make_store(tmp_path, source)
    assert "ant/0003.png" not in store.index["uri"].to_pylist() and sum(store.counts.values()) == 39


def test_added_pictures_leave_earlier_shards_as_they_were(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    first = (make_store(tmp_path, source).path / "images-00000.npy").read_bytes()
    make_image_folder(source, num_each=2, first=20)
    store = make_store(tmp_path, source)
    assert (store.path / "images-00000.npy").read_bytes() == first
    assert np.load(store.path / "images-00001.npy").shape == (4, 16, 16, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": "squeeze"}, "normalize.fit: must be one of crop, pad, stretch"),
        ({"size_px": "big"}, "normalize.size_px"),
        ({"channels": 2}, "normalize.channels: must be one of auto, 1, 3"),
        ({"sise_px": 3}, "did you mean 'size_px'"),
        ({"split": {"seed": 0, "val": 0.0, "test": 0.2}}, "split: val 0"),
    ],
)
def test_wrong_parameters_are_explained(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    ingest_source(make_image_folder(tmp_path / "set", num_each=3), tmp_path / "raw")
    with pytest.raises(UserError, match=message):
        normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS | change, workers=1)


def test_too_few_pictures_for_three_splits_are_explained(tmp_path: Path) -> None:
    ingest_source(make_image_folder(tmp_path / "set", num_each=1), tmp_path / "raw")
    with pytest.raises(UserError, match="split is empty with 2 pictures"):
        normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1)


def test_raw_data_that_rotted_is_not_believed_and_the_next_check_knows(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    ingest_source(make_image_folder(tmp_path / "set"), tmp_path / "raw")
    assert find_damaged_raw_files(tmp_path / "raw") == []
    shard = tmp_path / "raw" / "shard-00000.tar"
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    with shard.open("r+b") as file:
        file.seek(700)
        file.write(b"rot")
    os.utime(shard, ns=times)
    assert find_damaged_raw_files(tmp_path / "raw") == []
    with pytest.raises(UserError, match=r"shard-00000\.tar: missing or damaged; `convoy run` restores it"):
        normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1)
    assert find_damaged_raw_files(tmp_path / "raw") == ["shard-00000.tar"]


def test_importing_imageset_loads_no_heavy_library() -> None:
    script = (
        "import sys, imageset.__main__\n"
        "import imageset.normalize.stage, imageset.sources.factory, imageset.store.reader\n"
        "heavy = ('torch', 'mlflow', 'prefect', 'sklearn', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_a_large_picture_is_summed_exactly(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set", num_each=10), size_px=300)
    train = store.split("train")
    values = train.read_batch(np.arange(len(train))).astype(np.int64)
    assert np.array(train.rows["sums"].to_pylist()).tolist() == values.sum((1, 2)).tolist()
    assert np.array(train.rows["square_sums"].to_pylist()).tolist() == (values**2).sum((1, 2)).tolist()


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("shard_writer", "_decode_batches"),
        ("shard_writer", "_close_gaps"),
        ("stage", "write_dataset_page"),
        ("stage", "write_rejected_and_manifest"),
    ],
)
def test_a_run_that_is_killed_leaves_the_earlier_dataset_and_the_next_one_is_as_if_undisturbed(
    tmp_path: Path, module: str, function: str
) -> None:
    source = make_image_folder(tmp_path / "set")
    make_store(tmp_path, source)
    before = snapshot(tmp_path / "normalized")
    make_image_folder(source, num_each=3, first=20)
    ingest_source(source, tmp_path / "raw")
    script = (
        "import os, json, sys; from imageset.normalize import shard_writer, stage\n"
        f"assert callable({module}.{function})\n"
        f"{module}.{function} = lambda *arguments: os.kill(os.getpid(), 9)\n"
        "stage.normalize(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), workers=1)\n"
    )
    arguments = [str(tmp_path / "raw"), str(tmp_path / "normalized"), json.dumps(NORMALIZE_PARAMS)]
    assert subprocess.run([sys.executable, "-c", script, *arguments], check=False).returncode == -9
    assert snapshot(tmp_path / "normalized") == before
    normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1)
    normalize(tmp_path / "raw", tmp_path / "undisturbed", NORMALIZE_PARAMS, workers=1)
    assert snapshot(tmp_path / "normalized") == snapshot(tmp_path / "undisturbed")
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".normalized")]


def test_what_is_no_picture_is_refused_as_that_in_whatever_classes_it_lies(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set")
    for label in ("ant", "bee"):
        (folder / label / "page.png").write_bytes(b"<!DOCTYPE html><html>404</html>")
        (folder / label / "nothing.png").write_bytes(b"")
        (folder / label / "same.png").write_bytes(encode_noise(7))
    store = make_store(tmp_path, folder, max_reject_fraction=0.5)
    reasons = refusals(store)
    for label in ("ant", "bee"):
        names = ("page", "nothing", "same")
        found = [reasons[f"{label}/{name}.png"] for name in names]
        assert found == ["not_an_image", "empty", "label_conflict"]
    checked = {rejection.uri: rejection.reason for rejection in check_source(str(folder)).refused}
    assert checked == reasons
