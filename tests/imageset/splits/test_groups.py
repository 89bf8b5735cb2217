"""The splits of groups and near duplicates when other images are added or removed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageset.check import check_source
from imageset.exceptions import UserError
from imageset.normalize.stage import NormalizeSummary, normalize
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.splits import groups as ties_module
from imageset.splits.groups import add_ages, build_groups
from imageset.splits.placement import iter_row_splits
from imageset.splits.split_rule import SplitRule
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS
from tests.helpers.images import encode_noise, make_image_folder
from tests.helpers.photographs import write_tracks

HASH = SplitRule(0, 0.3, 0.3)
MONTHS = [f"{year}-{month:02d}-01" for year in (2023, 2024) for month in range(1, 13)][6:18]
TIME = SplitRule(0, 0.3, 0.3, by="time", val_from="2024-01-01", test_from="2024-06-01")

# A picture of a thought experiment: (identity, ingest, month 0..11 from July 2023, group or None,
# cluster of look-alikes)
PICTURE = st.tuples(
    st.integers(0, 10**6),
    st.integers(0, 2),
    st.integers(0, 11),
    st.sampled_from([None, "p", "q", "r"]),
    st.integers(0, 4),
)
PICTURES = st.lists(PICTURE, min_size=1, max_size=16, unique_by=lambda one: one[0])


def split_of(pictures: list[Any], rule: SplitRule, gone: set[int] = frozenset()) -> dict[int, str]:  # type: ignore[assignment]
    """The split of each picture that is still there; every picture of a cluster looks like the others."""
    records = pa.table(
        {
            "image_id": [f"{identity:064x}" for identity, *_ in pictures],
            "group": pa.array([group for *_, group, _ in pictures], pa.string()),
            "time": np.array([MONTHS[month] for _, _, month, _, _ in pictures], "datetime64[us]"),
            "shard": pa.array([shard for _, shard, *_ in pictures], pa.int32()),
            "cluster": [cluster for *_, cluster in pictures],
        }
    )
    rows = add_ages(records, [0, 1, 2])
    here = [number for number, one in enumerate(pictures) if one[0] not in gone]
    rows = rows.take(pa.array(here, pa.int64())).append_column("row", pa.array(here, pa.int32()))
    phashes = rows["cluster"].to_numpy().astype(np.uint64)
    found = build_groups(rows, phashes, 0, Path())
    rows = rows.append_column("split", pa.nulls(len(here), pa.string()))
    splits = [split for some in iter_row_splits(rows, rule, found) for split in some]
    check_undivided(found, splits)
    return {pictures[number][0]: split for number, split in zip(here, splits, strict=True)}


def check_undivided(found: ties_module.Groups, splits: list[str]) -> None:
    assert len(set(zip(found.leaders.tolist(), splits, strict=True))) == len(set(found.leaders.tolist()))


@pytest.fixture(autouse=True)
def all_alike(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thought experiments there are no pixels to confirm by."""
    if "thought" in request.node.name:
        confirm = lambda rows, folder: lambda one, other: np.ones(len(one), bool)  # noqa: E731
        monkeypatch.setattr(ties_module, "_PixelComparer", confirm)


@pytest.mark.parametrize("rule", [HASH, TIME], ids=["hash", "time"])
def test_thought_no_group_is_divided_and_the_order_of_pictures_does_not_matter(rule: SplitRule) -> None:
    @given(PICTURES, st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=100)
    def holds(pictures: list[Any], random: Any) -> None:
        shuffled = list(pictures)
        random.shuffle(shuffled)
        assert split_of(pictures, rule) == split_of(shuffled, rule)

    holds()


@pytest.mark.parametrize("rule", [HASH, TIME], ids=["hash", "time"])
def test_thought_newcomers_move_nothing_unless_one_makes_two_clusters_one(rule: SplitRule) -> None:
    @given(PICTURES)
    @settings(deadline=None, max_examples=100)
    def holds(pictures: list[Any]) -> None:
        before = [one for one in pictures if one[1] < 2]
        if not before or bridges(before, pictures):
            return
        old, new = split_of(before, rule), split_of(pictures, rule)
        assert {identity: new[identity] for identity in old} == old

    holds()


@pytest.mark.parametrize("rule", [HASH, TIME], ids=["hash", "time"])
def test_thought_a_picture_that_goes_moves_no_group_of_the_source(rule: SplitRule) -> None:
    @given(PICTURES, st.sets(st.integers(0, 15)))
    @settings(deadline=None, max_examples=100)
    def holds(pictures: list[Any], positions: set[int]) -> None:
        pictures = [(*one[:4], number) for number, one in enumerate(pictures)]  # nothing looks like anything
        gone = {one[0] for number, one in enumerate(pictures) if number in positions}
        before, after = split_of(pictures, rule), split_of(pictures, rule, gone)
        assert after == {identity: split for identity, split in before.items() if identity not in gone}

    holds()


def bridges(before: list[Any], after: list[Any]) -> bool:
    """Whether newcomers make one cluster of two that were apart."""

    def cluster_of(pictures: list[Any]) -> Callable[[int], int]:
        parent = list(range(len(pictures)))
        for one in range(len(pictures)):
            for other in range(one):
                same = pictures[one][4] == pictures[other][4]
                if same or (pictures[one][3] is not None and pictures[one][3] == pictures[other][3]):
                    old, new = parent[one], parent[other]
                    parent = [new if here == old else here for here in parent]
        places = {picture[0]: parent[number] for number, picture in enumerate(pictures)}
        return places.__getitem__

    was, is_now = cluster_of(before), cluster_of(after)
    identities = [one[0] for one in before]
    return any(is_now(a) == is_now(b) and was(a) != was(b) for a in identities for b in identities)


# ---- end to end ------------------------------------------------------------------------------------------------


def run(folder: Path, source: Path | str, **params: Any) -> tuple[NormalizeSummary, ImageStore]:
    ingest_source(source, folder / "raw")
    summary = normalize(folder / "raw", folder / "out", NORMALIZE_PARAMS | params, workers=1)
    return summary, ImageStore.open(folder / "out")


def splits_by(store: ImageStore, column: str) -> dict[Any, set[str]]:
    found: dict[Any, set[str]] = {}
    for key, split in zip(store.index[column].to_pylist(), store.index["split"].to_pylist(), strict=True):
        found.setdefault(key, set()).add(split)
    return found


def make_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    """table.csv beside its pictures; each row's picture is like no other."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        seed = int(row["path"].split(".")[0])
        (folder / row["path"]).write_bytes(encode_noise(seed))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "table.csv"


def visits(num: int) -> list[dict[str, str]]:
    """Four visits of each patient."""
    return [
        {"path": f"{number}.png", "label": "sick" if number % 3 else "well", "patient": f"P{number // 4}"}
        for number in range(num)
    ]


def test_the_visits_of_a_patient_stay_together(tmp_path: Path) -> None:
    _, store = run(tmp_path, make_table(tmp_path / "set", visits(120)))
    patients = splits_by(store, "group")
    assert len(patients) == 30 and all(len(splits) == 1 for splits in patients.values())
    before = splits_by(store, "uri")
    _, grown = run(tmp_path, make_table(tmp_path / "set", visits(150)[6:]))
    after = splits_by(grown, "uri")
    assert {uri: after[uri] for uri in before if uri in after} == {u: s for u, s in before.items() if u in after}


def test_the_frames_of_a_track_stay_together_where_a_pattern_names_the_track(tmp_path: Path) -> None:
    images = write_tracks(tmp_path / "set")
    split = NORMALIZE_PARAMS["split"]
    _, store = run(tmp_path, images, split=split)
    tracks: dict[str, set[str]] = {}
    for uri, place in zip(store.index["uri"].to_pylist(), store.index["split"].to_pylist(), strict=True):
        tracks.setdefault(uri.rpartition("_")[0], set()).add(place)
    assert sum(len(places) > 1 for places in tracks.values()) > len(tracks) / 2  # without it most are divided
    _, store = run(tmp_path, images, split=split | {"group": r"(\d+/\d+)_\d+\.ppm"})
    groups = splits_by(store, "group")
    assert set(groups) == set(tracks) and all(len(places) == 1 for places in groups.values())
    assert all(num > 0 for num in store.counts.values())


def dated(num: int) -> list[dict[str, str]]:
    """One picture every second day of 2024, two consecutive ones of a patient."""
    days = [str(np.datetime64("2024-01-01") + 2 * number) for number in range(num)]
    rows = [{"path": f"{number}.png", "label": "sick" if number % 3 else "well"} for number in range(num)]
    return [
        row | {"taken": day, "patient": f"P{number // 2}"}
        for number, (row, day) in enumerate(zip(rows, days, strict=True))
    ]


CUTS = {"by": "time", "val_from": "2024-04-02", "test_from": "2024-06-01"}


def test_a_split_by_time_tests_on_what_came_last_and_divides_no_patient(tmp_path: Path) -> None:
    source = make_table(tmp_path / "set", dated(100))
    _, store = run(tmp_path, source, split=NORMALIZE_PARAMS["split"] | CUTS)
    index = store.index.sort_by("time")
    order = index["split"].to_pylist()
    assert order == ["train"] * 46 + ["val"] * (order.count("val")) + ["test"] * order.count("test")
    assert order.count("val") == 30 and all(len(splits) == 1 for splits in splits_by(store, "group").values())
    assert store.manifest["split"]["test_from"] == "2024-06-01"
    assert read_records(tmp_path / "raw")["time"].null_count == 0


def test_a_patient_who_comes_again_stays_where_the_first_visit_is_and_a_visit_that_goes_changes_nothing(
    tmp_path: Path,
) -> None:
    rows = dated(100)
    run(tmp_path, make_table(tmp_path / "set", rows), split=NORMALIZE_PARAMS["split"] | CUTS)
    late = [{"path": "900.png", "label": "sick", "taken": "2024-12-24", "patient": "P0"},
            {"path": "901.png", "label": "sick", "taken": "2020-01-01", "patient": "P49"}]  # fmt: skip
    _, store = run(
        tmp_path, make_table(tmp_path / "set", [*rows[1:], *late]), split=NORMALIZE_PARAMS["split"] | CUTS
    )
    groups = splits_by(store, "group")
    assert groups["P0"] == {"train"} and groups["P49"] == {"test"}
    kept = [
        one for one in rows[2:] if one["path"] != "46.png"
    ]  # the eldest of P23, of March; its other is of April
    _, store = run(tmp_path, make_table(tmp_path / "set", [*kept, *late]), split=NORMALIZE_PARAMS["split"] | CUTS)
    assert splits_by(store, "group")["P0"] == {"train"}


def test_pictures_without_a_time_are_refused_where_the_split_goes_by_time(tmp_path: Path) -> None:
    rows = dated(100)
    rows[7]["taken"], rows[8]["taken"] = "", "some day"
    summary, store = run(tmp_path, make_table(tmp_path / "set", rows), split=NORMALIZE_PARAMS["split"] | CUTS)
    assert summary.rejected == {"undated": 2} and sum(store.counts.values()) == 98
    summary, _ = run(tmp_path, tmp_path / "set" / "table.csv")
    assert summary.rejected == {}
    with pytest.raises(UserError, match=r"100 of 100 pictures are refused \(100 undated\)"):
        run(tmp_path, f"{tmp_path}/set/table.csv?time=patient", split=NORMALIZE_PARAMS["split"] | CUTS)


def test_a_folder_has_times_where_a_pattern_finds_them(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", num_each=1)
    for number in range(60):
        day = str(np.datetime64("2024-01-01") + 4 * number).replace("-", "")
        (source / ("ant", "bee")[number % 2] / f"cam_{day}_{number}.png").write_bytes(
            encode_noise(50_000 + number)
        )
    rule = NORMALIZE_PARAMS["split"] | CUTS | {"time": r"_(\d{8})_"}
    summary, store = run(tmp_path, source, split=rule, max_reject_fraction=0.1)
    assert summary.rejected == {"undated": 2} and store.counts == {"train": 23, "val": 15, "test": 22}
    before = splits_by(store, "uri")
    report = check_source(source, max_reject_fraction=0.1, rule=SplitRule(**rule), workers=1)
    assert report.run_splits == store.counts
    (source / "ant" / "cam_20240301_x.png").write_bytes(encode_noise(60_000))
    _, store = run(tmp_path, source, split=rule, max_reject_fraction=0.1)
    after = splits_by(store, "uri")
    assert {uri: after[uri] for uri in before} == before and after["ant/cam_20240301_x.png"] == {"train"}


def make_copied(root: Path) -> Path:
    """train, val and test folders; one picture of test stands in train and one in val as well, byte for byte."""
    for number, split in enumerate(("train", "val", "test")):
        make_image_folder(root / split, num_each=20, first=100 * number)
    (root / "train" / "ant" / "copy.png").write_bytes((root / "test" / "ant" / "0200.png").read_bytes())
    (root / "val" / "bee" / "copy.png").write_bytes((root / "test" / "bee" / "0200.png").read_bytes())
    (root / "train" / "bee" / "twin.png").write_bytes((root / "train" / "bee" / "0000.png").read_bytes())
    return root


def test_copies_across_given_splits_are_kept_once_in_test_or_are_fatal(tmp_path: Path) -> None:
    source = make_copied(tmp_path / "set")
    for on_leak in ("warn", "drop_from_train"):
        summary, store = run(tmp_path, source, on_leak=on_leak)
        assert store.counts == {"train": 40, "val": 40, "test": 40}
        rows = pq.read_table(store.path / "rejected.parquet").to_pylist()
        assert {row["uri"]: row["reason"] for row in rows} == {
            "train/ant/copy.png": "leak",
            "val/bee/copy.png": "leak",
            "train/bee/twin.png": "duplicate",
        }
        assert rows[0]["detail"] == "the same bytes as test/ant/0200.png of the test split"
        assert ["2 pictures are copies, byte for byte" in one for one in summary.warnings] == [True] * (
            on_leak == "warn"
        )
    with pytest.raises(UserError, match=r"2 pictures are copies.*'train/ant/copy.png'.*test/ant/0200.png"):
        run(tmp_path, source, on_leak="fail")
    report = check_source(source, on_leak="fail", rule=HASH, workers=1)
    assert "2 pictures are copies" in str(report.stop_reason) and "2 pictures are copies" in report.warnings[0]


def test_a_patient_in_two_given_splits_is_a_leak(tmp_path: Path) -> None:
    rows = [row | {"split": ("train", "test")[number % 4 == 0]} for number, row in enumerate(visits(80)[:60])]
    rows += [row | {"split": "train" if number < 16 else "val"} for number, row in enumerate(visits(100)[60:])]
    source = make_table(tmp_path / "set", rows)
    summary, _ = run(tmp_path, source, on_leak="warn")
    assert "45 pictures look like, or belong to, pictures of another split" in summary.warnings[0]
    summary, store = run(tmp_path, source, on_leak="drop_from_train")
    assert summary.rejected == {"leak": 45} and store.counts == {"train": 16, "val": 24, "test": 15}
    with pytest.raises(UserError, match="45 pictures look like, or belong to"):
        run(tmp_path, source, on_leak="fail")


def test_a_class_without_any_test_picture_is_warned_about(tmp_path: Path) -> None:
    rows = [row | {"split": ("train", "val", "test")[number // 3 % 3]} for number, row in enumerate(visits(90))]
    rows += [{"path": f"{n}.png", "label": "rare", "patient": f"R{n}", "split": "train"} for n in range(500, 504)]
    table = make_table(tmp_path / "set", [{key: row[key] for key in ("path", "label", "split")} for row in rows])
    summary, _ = run(tmp_path, table, min_test_per_class=1)
    assert summary.warnings == ["1 class has no test pictures, so nothing measures them: rare"]
    report = check_source(str(table), rule=HASH, min_test_per_class=1, workers=1)
    assert report.warnings == summary.warnings
