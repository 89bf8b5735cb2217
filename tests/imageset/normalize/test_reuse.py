from __future__ import annotations

from pathlib import Path

import pytest

from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from tests.helpers.datasets import NORMALIZE_PARAMS, drop_digests, flip_bit, make_store, snapshot
from tests.helpers.images import encode_noise, make_image_folder


def test_a_second_run_decodes_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    (source / "ant" / "bad.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    ingest_source(source, tmp_path / "raw")
    assert normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS, workers=1).num_decoded == 41
    before = snapshot(tmp_path / "out")
    assert normalize(tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS, workers=1).num_decoded == 0
    assert snapshot(tmp_path / "out") == before


def test_what_is_taken_over_equals_what_is_made_anew(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    (source / "ant" / "bad.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    make_store(tmp_path, source)
    (source / "ant" / "0003.png").unlink()
    (source / "bee" / "0004.png").rename(source / "ant" / "moved.png")
    make_image_folder(source, num_each=3, first=20)
    ingest_source(source, tmp_path / "raw")
    params = NORMALIZE_PARAMS | {"split": {"seed": 3, "val": 0.2, "test": 0.2}}
    assert normalize(tmp_path / "raw", tmp_path / "normalized", params, workers=1).num_decoded == 6
    assert normalize(tmp_path / "raw", tmp_path / "anew", params, workers=1).num_decoded == 46
    assert snapshot(tmp_path / "normalized") == snapshot(tmp_path / "anew")


def test_other_decode_parameters_take_nothing_over(tmp_path: Path) -> None:
    make_store(tmp_path, make_image_folder(tmp_path / "set"))
    summary = normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS | {"size_px": 15}, workers=1)
    assert summary.num_decoded == 40


@pytest.mark.parametrize("keep_time", [False, True])
def test_damage_is_not_taken_over_and_the_dataset_is_the_same_again(tmp_path: Path, keep_time: bool) -> None:
    (tmp_path / "dvc.yaml").touch()
    source = make_image_folder(tmp_path / "set")
    (source / "ant" / "bad.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    make_store(tmp_path, source)
    before = snapshot(tmp_path / "normalized")
    for name in ("images-00000.npy", "index.parquet", "rejected.parquet", "dataset.json"):
        flip_bit(tmp_path / "normalized" / name, 0.6, keep_time=keep_time)
        summary = normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1)
        assert summary.num_decoded >= 40 and sum("was damaged" in line for line in summary.warnings) == 1
        assert snapshot(tmp_path / "normalized") == before


def test_only_the_pictures_of_a_damaged_shard_are_decoded_again(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set")
    ingest_source(source, tmp_path / "raw")
    make_image_folder(source, num_each=3, first=30)
    make_store(tmp_path, source)  # two raw shards, two pixel shards
    before = snapshot(tmp_path / "normalized")
    flip_bit(tmp_path / "normalized" / "images-00001.npy")
    summary = normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1)
    assert summary.num_decoded == 6 and "images-00001.npy" in summary.warnings[0]
    assert snapshot(tmp_path / "normalized") == before


def test_pixels_of_an_earlier_version_are_compared_with_their_sums(tmp_path: Path) -> None:
    make_store(tmp_path, make_image_folder(tmp_path / "set"))
    before = snapshot(tmp_path / "normalized")
    drop_digests(tmp_path / "normalized")
    assert normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1).num_decoded == 0
    assert snapshot(tmp_path / "normalized") == before
    drop_digests(tmp_path / "normalized")
    flip_bit(tmp_path / "normalized" / "images-00000.npy")
    assert normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS, workers=1).num_decoded == 40
    assert snapshot(tmp_path / "normalized") == before
