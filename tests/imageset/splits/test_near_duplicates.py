from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imageset.exceptions import UserError
from imageset.normalize.stage import NormalizeSummary, normalize
from imageset.raw.ingestion import ingest_source
from imageset.splits import near_duplicates
from imageset.splits.near_duplicates import group_near_duplicates
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, snapshot
from tests.helpers.images import draw_photo, encode_jpeg, make_image_folder, make_photo_folder, make_split_folder


def all_alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.ones(len(one), bool)


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.lists(st.integers(0, 63), max_size=6)), max_size=12),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=200)
def test_groups_are_those_that_comparing_every_pair_finds(
    base: list[int], copies: list[tuple[int, list[int]]], max_bits: int
) -> None:
    hashes = list(base)
    for number, bits in copies:
        hashes.append(hashes[number % len(base)] ^ sum(1 << bit for bit in set(bits)))
    leader = list(range(len(hashes)))
    for _ in hashes:
        for one in range(len(hashes)):
            for other in range(one):
                if (hashes[one] ^ hashes[other]).bit_count() <= max_bits:
                    leader[one] = leader[other] = min(leader[one], leader[other])
    assert group_near_duplicates(np.array(hashes, np.uint64), max_bits, all_alike).tolist() == leader


def run(folder: Path, source: Path, **params: Any) -> tuple[NormalizeSummary, ImageStore]:
    ingest_source(source, folder / "raw")
    values = NORMALIZE_PARAMS | {"near_duplicate_bits": 4, "size_px": 32} | params
    summary = normalize(folder / "raw", folder / "out", values, workers=1)
    return summary, ImageStore.open(folder / "out")


def places(store: ImageStore) -> dict[str, tuple[str, str | None]]:
    columns = (store.index[name].to_pylist() for name in ("uri", "split", "group"))
    return {uri: (split, group) for uri, split, group in zip(*columns, strict=True)}


def test_copies_follow_the_picture_that_was_there_first(tmp_path: Path) -> None:
    source = make_photo_folder(tmp_path / "set")
    _, store = run(tmp_path, source)
    before = places(store)
    assert {group for _, group in before.values()} == {None}
    for number in range(20):
        copy = draw_photo(number).resize((80, 80), Image.Resampling.BICUBIC)
        (source / "ant" / f"0 copy {number:03d}.jpg").write_bytes(encode_jpeg(copy, 60))
    summary, store = run(tmp_path, source)
    after = places(store)
    assert summary.num_near_duplicates == 40
    assert {uri: split for uri, (split, _) in before.items()} == {uri: after[uri][0] for uri in before}
    for number in range(20):
        assert after[f"ant/0 copy {number:03d}.jpg"] == after[f"ant/{number:03d}.jpg"]


def test_a_leak_between_given_splits_is_named_or_dropped_or_fatal(tmp_path: Path) -> None:
    source = make_split_folder(tmp_path / "set")
    summary, store = run(tmp_path, source, on_leak="warn")
    assert "5 pictures look like" in summary.warnings[0]
    assert "'train/ant/leak100.jpg' (train)" in summary.warnings[0]
    assert sum(store.counts.values()) == 85
    summary, store = run(tmp_path, source, on_leak="drop_from_train")
    reasons = [row["reason"] for row in pq.read_table(store.path / "rejected.parquet").to_pylist()]
    assert reasons == ["leak"] * 5 and summary.warnings == [] and store.counts["test"] == 40
    with pytest.raises(UserError, match=r"5 pictures look like.*drop_from_train"):
        run(tmp_path, source, on_leak="fail")


def test_a_leak_that_was_dropped_is_not_decoded_again(tmp_path: Path) -> None:
    source = make_split_folder(tmp_path / "set")
    before, _ = run(tmp_path, source, on_leak="drop_from_train")
    pixels = snapshot(tmp_path / "out")
    again, store = run(tmp_path, source, on_leak="drop_from_train")
    assert (before.num_decoded, again.num_decoded) == (85, 0) and snapshot(tmp_path / "out") == pixels
    assert not any("leak" in uri for uri in store.index["uri"].to_pylist())
    warned, store = run(tmp_path, source, on_leak="warn")
    assert warned.num_decoded == 0 and sum(store.counts.values()) == 85


def test_classes_with_few_test_pictures_are_named(tmp_path: Path) -> None:
    ingest_source(make_image_folder(tmp_path / "set", classes=("ant", "bee"), num_each=30), tmp_path / "raw")
    make_image_folder(tmp_path / "set", classes=("wasp",), num_each=4, first=900)
    ingest_source(tmp_path / "set", tmp_path / "raw")
    summary = normalize(
        tmp_path / "raw", tmp_path / "out", NORMALIZE_PARAMS | {"min_test_per_class": 3}, workers=1
    )
    assert len(summary.warnings) == 1 and "wasp" in summary.warnings[0] and "ant" not in summary.warnings[0]


def test_pictures_that_all_hash_nearly_alike_do_not_cost_the_square_of_their_number() -> None:
    bits = np.random.default_rng(0).integers(0, 64, (6, 20_000)).astype(np.uint64)
    dark = np.bitwise_or.reduce(np.uint64(1) << bits, axis=0)  # few bits set: a thousand share a band's zeros
    num_compared, num_confirmed = 0, 0

    def none_alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        nonlocal num_confirmed
        num_confirmed += len(one)
        return np.zeros(len(one), bool)

    for one, _ in near_duplicates._iter_candidate_pairs(dark, 4):
        num_compared += len(one)
    assert (group_near_duplicates(dark, 4, none_alike) == np.arange(len(dark))).all()
    assert num_compared < len(dark) * 5 * near_duplicates.MAX_BAND_SIZE / 2 < len(dark) ** 2 * 5 / 2
    assert 0 < num_confirmed <= len(dark) * near_duplicates.MAX_UNLIKE + 1
    assert len(np.unique(group_near_duplicates(dark, 4, all_alike))) < len(dark) / 100
