"""Labels come back: tables of people's labels extend and correct a dataset, and a log says who gave which."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imageset.exceptions import UserError
from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.raw.label_import import LabelPlan, import_labels
from imageset.raw.label_log import LABEL_LOG_FILE, read_label_log
from imageset.raw.records import read_records
from imageset.raw.shards import read_image_bytes
from imageset.sources.factory import open_label_table
from imageset.sources.label_table import iter_annotation_rows
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS as PARAMS
from tests.helpers.datasets import drop_digests, snapshot
from tests.helpers.images import encode_noise, make_image_folder

NEW = encode_noise(900), encode_noise(901), encode_noise(902)  # pictures that no source has


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "set", num_each=20)


@pytest.fixture
def raw(source: Path, tmp_path: Path) -> Path:
    ingest_source(source, tmp_path / "raw")
    return tmp_path / "raw"


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def id_at(path: Path) -> str:
    return id_of(path.read_bytes())


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    return path


def import_table(path: Path | str, raw: Path, by: str = "Anna", multi_label: bool = False, **options) -> LabelPlan:
    table = open_label_table(str(path))
    assert table is not None
    return import_labels(table.iter_rows(multi_label), raw, Path(table.label).name, by, **options)


def read_log(raw: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (raw / LABEL_LOG_FILE).read_text().splitlines()]


def build(raw: Path, out: Path) -> tuple[dict[str, str], dict[str, tuple[str, str]], Any]:
    """Return label by image_id, (reason, detail) by image_id of what is refused, and the summary of normalize."""
    summary = normalize(raw, out, PARAMS, workers=1)
    index = ImageStore.open(out).index
    labels = dict(zip(index["image_id"].to_pylist(), index["label"].to_pylist(), strict=True))
    refused = pq.read_table(out / "rejected.parquet").to_pylist()
    return labels, {row["image_id"]: (row["reason"], row["detail"]) for row in refused}, summary


@pytest.fixture
def review(source: Path, tmp_path: Path) -> Path:
    """A review of 3 new pictures and 3 known ones, of which one keeps its label; one more is still to label."""
    folder = tmp_path / "out.review"
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, (data, label) in enumerate(zip(NEW, ("ant", "bee", "cow"), strict=True)):
        (folder / f"pictures/{number}.png").write_bytes(data)
        rows.append({"path": f"pictures/{number}.png", "label": label, "image_id": id_of(data)})
    for name, label in (("ant/0001", "bee"), ("bee/0002", "ant"), ("ant/0003", "ant"), ("ant/0004", "")):
        data = (source / f"{name}.png").read_bytes()
        rows.append({"path": f"pictures/{id_of(data)[:12]}.png", "label": label, "image_id": id_of(data)})
    for row in rows:
        row |= {"guess": "bee", "probability": "0.5123", "margin": "0.1", "uri": "inbox/x.png", "model": "ants/3"}
    return write_table(folder / "review.csv", rows)


def test_a_review_extends_and_corrects_the_dataset(raw: Path, review: Path, source: Path, tmp_path: Path) -> None:
    before, refused, _ = build(raw, tmp_path / "out")
    assert len(before) == 40 and not refused
    plan = import_table(review, raw)
    assert plan.describe() == (
        "review.csv: 6 labels: 3 new pictures, 2 relabelled, 1 confirmed; 1 row without a label"
    )
    assert plan.list_warnings() == ["review.csv: a new class, which the dataset did not have: 'cow' (1)"]
    after, refused, summary = build(raw, tmp_path / "out")
    changed = {
        id_at(source / "ant/0001.png"): "bee",
        id_of((source / "bee/0002.png").read_bytes()): "ant",
    }
    added = dict(zip(map(id_of, NEW), ("ant", "bee", "cow"), strict=True))
    assert after == before | changed | added and not refused
    assert summary.num_decoded == 3
    line = read_log(raw)[0]
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "image_id": id_of(NEW[0]), "label": "ant", "previous": None, "annotator": "Anna", "table": "review.csv",
        "guess": "bee", "probability": 0.5123, "model": "ants/3",
    }  # fmt: skip
    assert dict(read_image_bytes(raw, [id_of(NEW[2])])) == {id_of(NEW[2]): NEW[2]}
    assert read_label_log(raw).count() == {"corrected": 2, "added": 3, "disputed": 0}


def test_relabelling_decodes_nothing_and_leaves_the_pixels(raw: Path, source: Path, tmp_path: Path) -> None:
    build(raw, tmp_path / "out")
    pixels = (tmp_path / "out" / "images-00000.npy").read_bytes()
    records = (raw / "records.parquet").stat()
    image_id = id_at(source / "ant/0001.png")
    import_table(write_table(tmp_path / "t.csv", [{"image_id": image_id, "label": "bee"}]), raw)
    labels, _, summary = build(raw, tmp_path / "out")
    assert labels[image_id] == "bee" and summary.num_decoded == 0
    assert (tmp_path / "out" / "images-00000.npy").read_bytes() == pixels
    assert (raw / "records.parquet").stat() == records


def test_a_source_that_relabels_a_corrected_picture_is_overruled_and_that_is_said(
    raw: Path, tmp_path: Path
) -> None:
    rows = [{"image_id": KNOWN, "label": "bee"}, {"image_id": OTHER, "label": "bee"}]
    import_table(write_table(tmp_path / "t.csv", rows), raw)
    source = tmp_path / "set"
    for number, label in (("0001", "cow"), ("0002", "bee")):
        (source / label).mkdir(exist_ok=True)
        (source / "ant" / f"{number}.png").rename(source / label / f"a{number}.png")
    text = ingest_source(source, raw).describe()
    assert "2 labels of people kept, 1 relabelled in the source, where the labels of people count" in text
    assert build(raw, tmp_path / "out")[0][KNOWN] == "bee"


def test_the_same_table_again_changes_nothing(raw: Path, review: Path) -> None:
    import_table(review, raw)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in raw.iterdir()}
    plan = import_table(review, raw)
    assert plan.describe() == "review.csv: 6 labels: 6 unchanged; 1 row without a label"
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in raw.iterdir()} == before


def test_the_nightly_ingest_of_the_source_keeps_all_of_it(
    raw: Path, review: Path, source: Path, tmp_path: Path
) -> None:
    import_table(review, raw)
    labels, _, _ = build(raw, tmp_path / "out")
    summary = ingest_source(source, raw)
    assert not summary.changed
    assert (
        summary.describe()
        == "set: 40 pictures in 2 classes, nothing new, 3 of label tables kept, 6 labels of people kept"
    )
    make_image_folder(source, num_each=1, first=20)
    (source / "ant" / "0005.png").unlink()
    (source / "cow.png").write_bytes(NEW[2])  # the source gets a picture that a table has added, and loses it
    for _ in range(2):
        summary = ingest_source(source, raw)
        assert (summary.num_absent, summary.num_added) == (1 + (not (source / "cow.png").exists()), 3)
        (source / "cow.png").unlink(missing_ok=True)
    after, refused, _ = build(raw, tmp_path / "out")
    assert {image_id: label for image_id, label in labels.items() if after.get(image_id) != label} == {
        id_of(encode_noise(5)): "ant"
    }
    assert len(after) == len(labels) + 1 and not refused


# ---- people who disagree ----------------------------------------------------------------------------------------


def test_a_picture_that_two_people_label_differently_is_held_out_until_they_agree_or_it_is_resolved(
    raw: Path, source: Path, tmp_path: Path
) -> None:
    first, second = (id_at(source / f"ant/000{number}.png") for number in (1, 2))

    def say(by: str, label: str, *image_ids: str, **options) -> LabelPlan:
        rows = [{"image_id": image_id, "label": label, "annotator": by} for image_id in image_ids]
        return import_table(write_table(tmp_path / "t.csv", rows), raw, "nobody", **options)

    say("Anna", "bee", first, second)
    plan = say("Ben", "ant", first, second)
    assert plan.list_warnings() == [
        f"t.csv: 2 pictures are held out, since people disagree: row 1 ({first[:14]}): Anna says bee, "
        f"Ben says ant, row 2 ({second[:14]}): Anna says bee, Ben says ant; the same table with the right labels "
        "and --resolve decides"
    ]
    labels, refused, summary = build(raw, tmp_path / "out")
    assert refused == dict.fromkeys([first, second], ("label_dispute", "Anna says bee, Ben says ant"))
    assert len(labels) == 38 and "rejected: 2 label_dispute" in summary.describe()
    assert summary.warnings[0].startswith(
        "2 pictures are held out, since people disagree about their labels, e.g. "
    )
    ingest_source(source, raw)
    assert build(raw, tmp_path / "out")[1] == refused  # the source decides nothing
    say("ben ", "bee", first)
    say("Carl", "ant", second, resolves=True)
    labels, refused, _ = build(raw, tmp_path / "out")
    assert (labels[first], labels[second], refused) == ("bee", "ant", {})
    assert not say("Carl", "ant", second, resolves=True).entries
    say("Anna", "bee", second)  # whoever objects to a decision opens the question again
    assert list(build(raw, tmp_path / "out")[1]) == [second]
    assert read_label_log(raw).count() == {"corrected": 1, "added": 0, "disputed": 1}


def test_people_who_disagree_in_one_table_are_heard_even_if_one_of_them_agrees_with_the_source(
    raw: Path, source: Path, tmp_path: Path
) -> None:
    image_id = id_at(source / "ant/0001.png")
    rows = [{"image_id": image_id, "label": label, "labeled_by": by} for by, label in (("A", "ant"), ("B", "bee"))]
    plan = import_table(write_table(tmp_path / "t.csv", rows), raw)
    assert plan.describe() == "t.csv: 2 labels: 1 relabelled, 1 confirmed"
    assert build(raw, tmp_path / "out")[1] == {image_id: ("label_dispute", "A says ant, B says bee")}


def test_of_two_labels_of_one_person_the_later_counts(raw: Path, source: Path, tmp_path: Path) -> None:
    image_id = id_at(source / "ant/0001.png")
    rows = [
        {"image_id": image_id, "label": "ant", "labeled_at": "2026-03-02T10:00"},
        {"image_id": image_id, "label": "bee", "labeled_at": "2026-03-01T10:00"},
    ]
    import_table(write_table(tmp_path / "t.csv", rows), raw)
    assert [line["labeled_at"] for line in read_log(raw)] == [
        "2026-03-01T10:00:00+00:00",
        "2026-03-02T10:00:00+00:00",
    ]
    assert build(raw, tmp_path / "out")[0][image_id] == "ant"


# ---- what stops -------------------------------------------------------------------------------------------------

KNOWN = id_of(encode_noise(1))  # ant/0001.png
OTHER = id_of(encode_noise(2))

STOPS: dict[str, tuple[list[dict[str, str]], str]] = {
    "other bytes": (
        [{"image_id": id_of(NEW[0]), "path": "new.png", "label": "ant"}],
        r"t\.csv: row 1 \(new\.png\): the file has other bytes \(image_id \w{12}\.\.\.\) than the row says",
    ),
    "only a prefix": ([{"image_id": KNOWN[:12], "label": "ant"}], rf"row 1 .*'{KNOWN[:12]}' is not the SHA-256"),
    "a prefix": (
        [{"image_id": KNOWN, "label": "ant"}, {"image_id": OTHER[:12], "label": "ant"}],
        rf"row 2 \({OTHER[:12]}\): the image_id '{OTHER[:12]}' is not the SHA-256 of a picture, 64 hexadecimal",
    ),
    "case": (
        [{"image_id": KNOWN, "label": "Bee"}],
        r"the label 'Bee' differs from the class 'bee' by case.*write 'bee'",
    ),
    "two new names": (
        [{"image_id": KNOWN, "label": "Cow"}, {"image_id": OTHER, "label": "cow"}],
        r"the label 'Cow' differs from the label 'cow' by case.*write one of them in all rows",
    ),
    "several": (
        [{"image_id": KNOWN, "label": "ant|bee"}],
        r"has several labels, 'ant' and 'bee', but the pictures of this project have one label each; keep one",
    ),
    "several by comma": ([{"image_id": KNOWN, "label": "bee, ant"}], r"has several labels, 'bee' and 'ant'"),
    "twice": (
        [{"image_id": KNOWN, "label": "ant"}, {"image_id": KNOWN, "label": "bee"}],
        r"the same picture is labelled 'ant' and 'bee' by Anna; keep one of the rows",
    ),
    "all unknown": (
        [{"image_id": id_of(NEW[1]), "label": "ant"}, {"image_id": "", "label": "bee"}],
        r"t\.csv: 2 rows name pictures that the project does not have: .*add the pictures beside the table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_what_is_wrong_stops_with_one_line_and_writes_nothing(case: str, raw: Path, tmp_path: Path) -> None:
    rows, message = STOPS[case]
    (tmp_path / "new.png").write_bytes(NEW[1])
    before = snapshot(raw)
    with pytest.raises(UserError, match=message) as raised:
        import_table(write_table(tmp_path / "t.csv", rows), raw)
    assert "\n" not in str(raised.value) and snapshot(raw) == before


def test_rows_of_pictures_that_nobody_has_are_named_and_the_others_count(raw: Path, tmp_path: Path) -> None:
    rows = [{"image_id": KNOWN, "path": "", "label": "bee"}, {"image_id": OTHER, "path": "", "label": ""}]
    rows += [
        {"image_id": id_of(data), "path": path, "label": "ant"}
        for data, path in zip(NEW, ("", "no.png", ""), strict=True)
    ]
    plan = import_table(write_table(tmp_path / "t.csv", rows), raw)
    assert plan.describe() == "t.csv: 1 label: 1 relabelled; 1 row without a label"
    (warning,) = plan.list_warnings()
    assert warning.startswith("t.csv: 3 rows name pictures that the project does not have: ")
    assert "row 4 (no.png): no such file" in warning and warning.endswith("or take out the rows")


def test_a_damaged_line_of_the_log_is_named(raw: Path, review: Path, tmp_path: Path) -> None:
    import_table(review, raw)
    drop_digests(raw)  # with them, the file as a whole is named before a line is read
    lines = (raw / LABEL_LOG_FILE).read_text().splitlines(keepends=True)
    for damage in (
        lines[1][:40] + "\n",
        "[]\n",
        lines[1].replace('"bee"', "7"),
        lines[1].replace("image_id", "id"),
    ):
        (raw / LABEL_LOG_FILE).write_text("".join([lines[0], damage, *lines[2:]]))
        for use in (lambda: normalize(raw, tmp_path / "out", PARAMS), lambda: import_table(review, raw)):
            with pytest.raises(UserError, match=r"label_log\.jsonl: line 2 is damaged; remove the file, "):
                use()


# ---- the tables that the project itself wrote, and others -------------------------------------------------------


def test_only_the_rows_of_label_issues_that_a_person_changed_are_events(raw: Path, tmp_path: Path) -> None:
    from lightning_modules.evaluation.label_issues import format_label_issues

    issues = [
        ("ant/0001.png", "ant", "bee", 0.1, "test", KNOWN),
        ("ant/0002.png", "ant", "bee", 0.2, "val", OTHER),
    ]
    table = tmp_path / "label_issues.csv"
    table.write_bytes(format_label_issues(issues))
    assert not import_table(table, raw).entries
    table.write_text(table.read_text().replace("ant/0001.png,ant", "ant/0001.png,bee"))
    plan = import_table(table, raw)
    assert plan.describe() == "label_issues.csv: 2 labels: 1 relabelled, 1 unchanged"
    assert [(line["image_id"], line["previous"], line["label"]) for line in read_log(raw)] == [
        (KNOWN, "ant", "bee")
    ]


def test_labels_as_spreadsheets_leave_them_are_read(tmp_path: Path) -> None:
    numbers = make_image_folder(tmp_path / "set", ("1", "2"), num_each=10)
    ingest_source(numbers, tmp_path / "raw")
    table = tmp_path / "t.csv"
    table.write_bytes(f"Image_ID;Label\r\n{KNOWN.upper()};2.0\r\n{OTHER};\r\n;\r\n".encode("utf-16"))
    plan = import_table(table, tmp_path / "raw")
    assert plan.describe() == "t.csv: 1 label: 1 relabelled; 1 row without a label"
    assert [line["label"] for line in read_log(tmp_path / "raw")] == ["2"]


def test_pictures_without_an_image_id_are_known_by_their_bytes(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_noise(1))
    (tmp_path / "b.png").write_bytes(NEW[0])
    time = "2026-03-01"
    annotations = [
        ("a.png", None, ["bee"], "Anna", time),
        ("b.png", None, ["ant"], None, None),
    ]
    annotations += [("a.png", None, [], None, None), (None, OTHER, ["bee"], None, None)]
    plan = import_labels(iter_annotation_rows(annotations, tmp_path), raw, "export.json", "Ben")
    assert plan.describe() == "export.json: 3 labels: 1 new picture, 2 relabelled; 1 row without a label"
    assert {(line["image_id"], line["label"], line["annotator"]) for line in read_log(raw)} == {
        (KNOWN, "bee", "Anna"), (id_of(NEW[0]), "ant", "Ben"), (OTHER, "bee", "Ben"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        [{"path": "a.png", "label": "ant"}],
        [{"image_id": "139", "label": "ant"}],
        [{"image_id": "2017010203", "label": "ant"}],
    ],
)
def test_a_table_without_hashes_is_no_label_table(rows: list[dict[str, str]], tmp_path: Path) -> None:
    assert open_label_table(str(write_table(tmp_path / "t.csv", rows))) is None


def test_predictions_are_no_labels(tmp_path: Path) -> None:
    names = ("uri", "image_id", "label", "probability", "top_k", "model_name", "model_version", "status", "error")
    table = write_table(tmp_path / "t.csv", [dict.fromkeys(names, "x") | {"image_id": KNOWN}])
    with pytest.raises(UserError, match="holds predictions of a model, not labels of people; `convoy predict"):
        open_label_table(str(table))


def test_a_multi_label_dataset_gets_sets_of_labels(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(20):
        (tmp_path / "set" / f"{number}.png").write_bytes(encode_noise(number))
    lines = [f"{number}.png,{('ant', 'bee', 'ant|bee')[number % 3]}" for number in range(20)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["path,label", *lines]))
    ingest_source(f"{tmp_path / 'set' / 'labels.csv'}?separator=|", tmp_path / "raw")
    ids = [id_of(encode_noise(number)) for number in range(20)]
    wanted = {ids[0]: "bee|ant", ids[1]: "|", ids[2]: "cow", ids[3]: ""}
    table = write_table(tmp_path / "t.csv", [{"image_id": name, "label": label} for name, label in wanted.items()])
    plan = import_table(table, tmp_path / "raw", multi_label=True)
    assert plan.describe() == "t.csv: 3 labels: 3 relabelled; 1 row without a label"
    labels, _, _ = build(tmp_path / "raw", tmp_path / "out")
    assert [labels[image_id] for image_id in ids[:3]] == ["ant|bee", "", "cow"]


# ---- kills and other sources ------------------------------------------------------------------------------------


def test_an_import_that_is_killed_leaves_all_of_it_or_nothing(
    raw: Path, review: Path, source: Path, tmp_path: Path
) -> None:
    for copy in ("before", "calm"):
        shutil.copytree(raw, tmp_path / copy)
    import_table(review, tmp_path / "calm")
    script = (
        "import os, sys\n"
        "from imageset.raw import label_import\n"
        "from imageset.sources.factory import open_label_table\n"
        "rename, left = os.replace, [int(sys.argv[3])]\n"
        "def dying(*arguments):\n"
        "    left[0] -= 1\n"
        "    return os._exit(9) if left[0] < 0 else rename(*arguments)\n"
        "os.replace = dying\n"
        "table = open_label_table(sys.argv[1])\n"
        "label_import.import_labels(table.iter_rows(False), sys.argv[2], 'review.csv', 'Anna')\n"
    )
    outcomes = set()
    for steps in range(10):
        shutil.rmtree(raw)
        shutil.copytree(tmp_path / "before", raw)
        done = subprocess.run(
            [sys.executable, "-c", script, review, raw, str(steps)], capture_output=True, text=True
        )
        assert done.returncode in (0, 9), done.stderr
        ingest_source(source, raw)  # as the nightly run does
        added = sum(name is not None for name in read_records(raw)["label_table"].to_pylist())
        outcomes.add((len(read_label_log(raw)), added))
        assert [file.name for file in raw.iterdir() if file.name.startswith(".")] == []
        if done.returncode == 0:
            break
    assert outcomes == {(0, 0), (6, 3)} and steps == 6  # shard, source.json, the staged folder, three files
    import_table(review, raw)
    without_times = [{**line, "time": ""} for line in read_log(raw)]
    assert without_times == [{**line, "time": ""} for line in read_log(tmp_path / "calm")]
    assert read_records(raw).equals(read_records(tmp_path / "calm"))


def test_the_labels_of_another_kind_of_source_under_the_same_name_are_kept(
    raw: Path, review: Path, source: Path, tmp_path: Path
) -> None:
    import_table(review, raw)
    before, _, _ = build(raw, tmp_path / "out")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", source)
    summary = ingest_source(archive, raw, name="set")
    assert (summary.kind, summary.num_added, summary.num_labeled) == ("archive", 3, 6)
    assert build(raw, tmp_path / "out")[0] == before


def test_another_source_keeps_the_labels_of_pictures_and_classes_that_it_has(
    raw: Path, review: Path, source: Path, tmp_path: Path
) -> None:
    import_table(review, raw)
    before = (raw / LABEL_LOG_FILE).read_bytes()
    other = make_image_folder(tmp_path / "other", ("ant", "wasp"), num_each=10)  # the same pictures, other names
    summary = ingest_source(other, raw, start_anew=True)
    assert (summary.num_added, summary.num_labeled, summary.num_labels_dropped) == (0, 2, 4)
    assert "2 labels of people kept, 4 labels of people left out, whose pictures or classes" in summary.describe()
    labels, refused, _ = build(raw, tmp_path / "out")
    assert sorted(set(labels.values())) == ["ant", "wasp"] and not refused
    assert labels[id_at(source / "bee/0002.png")] == "ant"  # as corrected; the source says wasp
    assert (raw / LABEL_LOG_FILE).read_bytes().startswith(before)
    assert len(read_log(raw)[-1]["dropped"]) == 4
    assert not ingest_source(other, raw).changed


def test_a_label_brings_no_forgotten_picture_back(raw, review):
    gone = id_of(NEW[0])
    plan = import_table(review, raw, forgotten={gone})
    assert gone not in plan.new_images
    assert "forgotten: `convoy forget` has removed the picture" in "".join(plan.list_warnings())
    assert gone not in read_records(raw)["image_id"].to_pylist()
