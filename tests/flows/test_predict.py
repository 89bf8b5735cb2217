import csv
import hashlib
import json
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import parts as parts_module
from flows.answers import Answers
from flows.parts import SCHEMA, Parts, cut
from flows.pictures import open_pictures
from flows.predict import dataset_name, unknown_precisions
from flows.registry import Version
from flows.tables import predict_table, write_table
from imageset.errors import UserError
from imageset.progress import Silent
from lightning_modules.engines import PyTorchEngine
from tests.conftest import write_pictures
from tests.flows.killed_predict import MANY_PARTS, untrained

ROW = dict.fromkeys(SCHEMA.names) | {"uri": "a.png", "status": "ok", "model_version": 1}


@pytest.fixture(autouse=True)
def many_parts(monkeypatch):
    for name, value in MANY_PARTS.items():
        monkeypatch.setattr(parts_module, name, value)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("bundle"))


class Desk:
    """A model version, where its parts lie, and how many pictures went through its network."""

    def __init__(self, bundle, folder: Path, version: int = 1) -> None:
        self.answers = Answers(bundle, PyTorchEngine(bundle), Version("digits", version, ""),
                               {"batch_size": 8, "top_k": 3}, workers=1)  # fmt: skip
        self.parts = self.answers.parts(folder)
        self.num_computed = 0
        logits = self.answers.engine.logits

        def counting(images):
            self.num_computed += int(images.any(axis=(1, 2, 3)).sum())  # a batch is filled up with zeros
            return logits(images)

        self.answers.engine.logits = counting

    def predict(self, source: Path | str, out: Path, **options) -> list[dict]:
        with self.parts.alone(wait=lambda: None):
            predict_table(open_pictures(str(source)), self.answers, self.parts, out, Silent(), **options)
        return pq.read_table(out).to_pylist() if out.suffix == ".parquet" else []


@pytest.fixture
def desk(bundle, tmp_path):
    return Desk(bundle, tmp_path / "parts")


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", classes="01", num_each=30)


def test_nothing_is_computed_twice_by_the_same_version(desk, pictures, bundle, tmp_path):
    first = desk.predict(pictures, tmp_path / "a.parquet")
    assert desk.num_computed == 60
    before = (tmp_path / "a.parquet").read_bytes()
    assert desk.predict(pictures, tmp_path / "a.parquet") == first
    assert (desk.num_computed, (tmp_path / "a.parquet").read_bytes()) == (60, before)
    another = Desk(bundle, tmp_path / "parts", version=2)
    rows = another.predict(pictures, tmp_path / "b.parquet")
    assert another.num_computed == 60 and {row["model_version"] for row in rows} == {2}


def test_new_pictures_alone_are_computed_and_the_table_is_whole(desk, bundle, pictures, tmp_path):
    desk.predict(pictures, tmp_path / "a.parquet")
    new = pictures / "0" / "0000_new.png"
    new.write_bytes(
        write_pictures(tmp_path / "more", classes="7", num_each=1).rglob("*.png").__next__().read_bytes()
    )
    (pictures / "1" / "moved.png").write_bytes(min((pictures / "1").iterdir()).read_bytes())
    rows = desk.predict(pictures, tmp_path / "b.parquet")
    assert desk.num_computed == 61
    fresh = Desk(bundle, tmp_path / "elsewhere").predict(pictures, tmp_path / "c.parquet")
    assert rows == fresh and len(rows) == 62
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()


def test_a_picture_more_changes_its_own_part_or_cuts_it_in_two(pictures):
    def names() -> list[str]:
        return [part.name for part, _ in cut(open_pictures(str(pictures)), "key")]

    before = names()
    (pictures / "0" / "0000_new.png").write_bytes(b"new")
    assert len(before) > 5 and 1 <= len(set(names()) - set(before)) <= 2


def test_only_new_pictures_are_written_if_only_those_are_wanted(desk, pictures, tmp_path):
    desk.predict(pictures, tmp_path / "a.parquet", new_only=True)
    (pictures / "0" / "new.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.parquet: exists, and with --new-only its rows would be lost"):
        desk.predict(pictures, tmp_path / "a.parquet", new_only=True)
    rows = desk.predict(pictures, tmp_path / "b.parquet", new_only=True)
    assert [row["uri"] for row in rows] == ["0/new.png"]
    assert desk.predict(pictures, tmp_path / "c.parquet", new_only=True) == []


def test_a_decoder_that_died_is_tried_again_by_the_next_run(desk, pictures, tmp_path, monkeypatch):
    from imageset.quality import Rejected
    from lightning_modules import scoring

    stream = scoring.decode_stream

    def dying(items, spec, **options):
        for key, _ in stream(items, spec, **options):
            yield key, Rejected("timeout", "decoding took too long")

    monkeypatch.setattr(scoring, "decode_stream", dying)
    rows = desk.predict(pictures, tmp_path / "a.parquet")
    assert {row["error"] for row in rows} == {"timeout: decoding took too long"}
    monkeypatch.setattr(scoring, "decode_stream", stream)
    assert {row["status"] for row in desk.predict(pictures, tmp_path / "b.parquet", new_only=True)} == {"ok"}


def test_the_model_gives_no_label_where_it_is_not_sure_enough(desk, pictures, tmp_path):
    desk.answers.abstain_below = 0.999
    rows = desk.predict(pictures, tmp_path / "a.parquet")
    assert {(row["status"], row["label"], row["error"]) for row in rows} == {("abstained", None, None)}
    assert all(row["probability"] == row["top_k"][0]["probability"] < 0.999 for row in rows)


def test_archives_and_tables_without_labels_give_the_rows_that_the_folder_gives(desk, pictures, tmp_path):
    files = sorted(pictures.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "inbox.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(pictures))
    with (tmp_path / "pictures" / "table.csv").open("w") as table:
        table.write("path\n" + "".join(f"{file.relative_to(pictures)}\n" for file in files))
    rows = desk.predict(pictures, tmp_path / "a.parquet")
    assert desk.predict(tmp_path / "inbox.zip", tmp_path / "b.parquet") == rows
    assert desk.predict(pictures / "table.csv", tmp_path / "c.parquet") == rows


def test_csv_and_json_lines_say_the_same_as_parquet(desk, pictures, tmp_path):
    (pictures / "odd, name.png").write_bytes(b"")
    rows = desk.predict(pictures, tmp_path / "a.parquet")
    for ending in ("csv", "jsonl"):
        desk.predict(pictures, tmp_path / f"a.{ending}")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == rows
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["uri"] for cell in cells] == [row["uri"] for row in rows]
    assert [json.loads(cell["top_k"] or "null") for cell in cells] == [row["top_k"] for row in rows]


def test_the_table_says_which_model_and_engine_it_comes_from(desk, pictures, bundle, tmp_path):
    desk.predict(pictures, tmp_path / "a.parquet")
    metadata = pq.read_schema(tmp_path / "a.parquet").metadata
    assert metadata[b"convoy.bundle"].decode() == bundle.digest
    assert metadata[b"convoy.engine"] == b"pytorch" and metadata[b"convoy.precision"] == b"fp32"


def test_the_version_carries_what_was_seen_of_a_faster_precision_and_says_it_once():
    found = {
        "engine": "openvino", "precision": "bf16", "seen": "agrees with fp32 on 99.60% of 250 validation pictures",
        "refused": {"openvino int8": "agrees with fp32 on 97.00%", "pytorch int8": "pytorch runs no int8 here"},
    }  # fmt: skip
    tags = unknown_precisions(Version("digits", 1, ""), found)
    assert tags == {
        "convoy.precision.bf16": "openvino, used: agrees with fp32 on 99.60% of 250 validation pictures",
        "convoy.precision.int8": "openvino, not used: agrees with fp32 on 97.00%",
    }
    assert unknown_precisions(Version("digits", 1, "", None, tags), found) == {}
    plain = {"engine": "onnxruntime", "precision": "fp32", "seen": "differs by 6e-08", "refused": {}}
    assert unknown_precisions(Version("digits", 1, ""), plain) == {}


def test_an_earlier_table_stands_until_the_new_one_is_whole(tmp_path):
    out, parts = tmp_path / "out.parquet", Parts(tmp_path / "parts", "key")
    out.write_bytes(b"earlier")
    from flows.tables import deliver

    with pytest.raises(FileNotFoundError):
        deliver(out, parts, ["a-part-that-is-not-there"], {})
    assert out.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_many_rows_are_written_in_groups_and_none_is_lost(tmp_path):
    def tables():
        for start in range(0, 10_000, 125):
            rows = [{**ROW, "uri": f"{n}.png"} for n in range(start, start + 125)]
            yield pa.Table.from_pylist(rows, schema=SCHEMA)

    write_table(tmp_path / "out.parquet", ".parquet", tables(), {})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["uri"].to_pylist() == [f"{n}.png" for n in range(10_000)]
    assert table.schema.equals(SCHEMA)
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


def test_a_picture_that_may_not_be_read_keeps_its_place(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    open_file = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    pictures = list(open_pictures(str(tmp_path)))
    assert [picture.uri for picture, _ in pictures] == ["a.png", "b.png", "c.png"]
    assert pictures[0][0].image_id == hashlib.sha256(b"a.png").hexdigest()
    assert pictures[1][0].image_id is None and "permission denied" in pictures[1][0].error.lower()


def test_the_name_of_the_model_is_that_of_the_dataset(tmp_path):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text('{"name": "flowers"}')
    assert dataset_name(tmp_path) == "flowers"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name'])
def test_a_broken_dataset_is_named(tmp_path, text):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: broken .*dvc repro -f normalize"):
        dataset_name(tmp_path)


def test_without_a_dataset_the_way_to_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="convoy run FOLDER"):
        dataset_name(Path(tmp_path))
