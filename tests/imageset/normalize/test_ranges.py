"""Pictures of more than 8 bits a channel are read with a range of their set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from imageset.check import check_source
from imageset.decoding.decoder import decode
from imageset.normalize.stage import NormalizeSummary, normalize
from imageset.raw.ingestion import ingest_source
from imageset.rejections import Rejected
from imageset.splits.split_rule import SplitRule
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, make_store, snapshot
from tests.helpers.high_bit_depth import draw_values, encode_png16, encode_tiff, write_deep_images
from tests.helpers.images import make_image_folder


def normalize_source(tmp_path: Path, out: str = "normalized") -> NormalizeSummary:
    ingest_source(tmp_path / "source", tmp_path / "raw")
    return normalize(tmp_path / "raw", tmp_path / out, NORMALIZE_PARAMS, workers=1)


def test_twelve_bits_become_visible_in_check_dataset_and_prediction_alike(tmp_path: Path) -> None:
    line = "16-bit pictures hold 12 bits: read with a range of 4,095"
    write_deep_images(tmp_path / "source", 12)
    summary = normalize_source(tmp_path)
    assert line in summary.describe()
    assert line in check_source(tmp_path / "source", workers=1).to_text().splitlines()
    store = ImageStore.open(tmp_path / "normalized")
    assert store.spec.integer_max == 4095 and store.manifest["decode"]["integer_max"] == 4095
    assert abs(store.mean[0] - 0.5) < 0.02
    rows = store.index.to_pylist()
    for row in rows[::5]:
        pixels = decode((tmp_path / "source" / row["uri"]).read_bytes(), store.spec)
        np.testing.assert_array_equal(pixels, store.open_shard(row["shard"])[row["row"]])
    with pytest.raises(Rejected, match="end at 4,095"):
        decode(encode_png16(draw_values(0, 16)), store.spec)


def test_pictures_of_8_and_of_16_bits_have_no_range_in_the_manifest(tmp_path: Path) -> None:
    write_deep_images(tmp_path / "deep", 16)
    make_image_folder(tmp_path / "flat")
    for name in ("deep", "flat"):
        store = make_store(tmp_path / f"of {name}", tmp_path / name)
        assert set(store.manifest["decode"]) == {
            *("size", "channels", "fit", "interpolation", "max_pixels", "fidelity")
        }
        assert check_source(tmp_path / name, workers=1).ranges == []
        assert (store.path / "peaks.parquet").exists() == (name == "deep")


def test_pictures_that_exceed_the_range_change_it_for_all(tmp_path: Path) -> None:
    write_deep_images(tmp_path / "source", 10)
    make_image_folder(tmp_path / "source", num_each=5, first=900)  # of 8 bits
    assert "range of 1,023" in normalize_source(tmp_path).describe()
    shard = tmp_path / "normalized" / "images-00000.npy"
    os.link(shard, tmp_path / "in the cache.npy")  # as DVC links it
    before = shard.read_bytes()
    write_deep_images(tmp_path / "source", 12, first=100, num_each=2)
    summary = normalize_source(tmp_path)
    assert "range of 4,095; decoded: 34" in summary.describe()  # not the 10 of 8 bits
    normalize_source(tmp_path, "fresh")
    assert snapshot(tmp_path / "normalized") == snapshot(tmp_path / "fresh")
    assert (tmp_path / "in the cache.npy").read_bytes() == before


def test_pictures_within_the_range_leave_the_others_decoded(tmp_path: Path) -> None:
    write_deep_images(tmp_path / "source", 12)
    normalize_source(tmp_path)
    write_deep_images(tmp_path / "source", 10, first=100, num_each=2)
    assert "range of 4,095; decoded: 4" in normalize_source(tmp_path).describe()
    normalize_source(tmp_path, "fresh")
    assert snapshot(tmp_path / "normalized") == snapshot(tmp_path / "fresh")


def test_a_range_shrinks_with_the_pictures_that_needed_it(tmp_path: Path) -> None:
    write_deep_images(tmp_path / "source", 10)
    write_deep_images(tmp_path / "source", 16, first=100, num_each=1)
    assert "range" not in normalize_source(tmp_path).describe()
    for file in (tmp_path / "source").rglob("1??.png"):
        file.unlink()
    assert "range of 1,023; decoded: 30" not in normalize_source(tmp_path).describe()
    assert ImageStore.open(tmp_path / "normalized").spec.integer_max == 1023
    normalize_source(tmp_path, "fresh")
    assert snapshot(tmp_path / "normalized") == snapshot(tmp_path / "fresh")


def test_floating_point_pictures_share_a_range(tmp_path: Path) -> None:
    for position, name in enumerate(("ant", "bee")):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(15):
            values = draw_values(1000 * position + number, 12).astype(np.float32)
            values /= 4095 if position else 1  # one class is dark, and stays so
            (tmp_path / "source" / name / f"{number}.tif").write_bytes(encode_tiff(values))
    assert "floating-point pictures are read with a range of 4,095" in normalize_source(tmp_path).describe()
    store = ImageStore.open(tmp_path / "normalized")
    for row in store.index.to_pylist():
        mean = store.open_shard(row["shard"])[row["row"]].mean()
        assert mean == 0 if row["label"] == "bee" else mean > 100


@pytest.mark.parametrize(
    ("num_bright", "line"),
    [
        (0, "hardly any contrast: the pixels of all pictures have the mean 0."),
        (1, "1 16-bit picture has values up to 65,535, e.g. ant/100.png, and the other 30 end at 1,023: all are "),
    ],
)
def test_lost_contrast_is_a_warning(tmp_path: Path, num_bright: int, line: str) -> None:
    source = write_deep_images(tmp_path / "source", 10)
    if num_bright:
        (source / "ant" / "100.png").write_bytes(encode_png16(draw_values(0, 16)))
    else:
        for file in source.rglob("*.*"):
            values = draw_values(int(file.stem) + 100 * (file.parent.name == "bee"), 1)
            file.write_bytes(encode_png16(values))
    rule = SplitRule(by="hash", seed=0, val=0.2, test=0.2)
    for warnings in (check_source(source, rule=rule, workers=1).warnings, normalize_source(tmp_path).warnings):
        assert any(warning.startswith(line) for warning in warnings), warnings


def test_a_set_with_contrast_is_none(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "source")
    assert not normalize_source(tmp_path).warnings
    assert not check_source(tmp_path / "source", workers=1).warnings
