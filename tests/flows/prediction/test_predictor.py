import csv
import hashlib
import json
import os
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.prediction import cache
from flows.prediction.cache import shard_stream
from flows.prediction.image_stream import open_images
from flows.prediction.predictor import Predictor
from flows.prediction.table_writer import predict_table
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.utils.integrity.checked_file import HEADER_BYTES
from imageset.utils.progress import SilentProgress
from lightning_modules.scoring import PyTorchEngine
from tests.helpers.datasets import flip_bit
from tests.helpers.images import write_digit_images
from tests.helpers.killed_prediction import MANY_SHARDS
from tests.helpers.models import make_untrained_bundle


@pytest.fixture(autouse=True)
def many_parts(monkeypatch):
    for name, value in MANY_SHARDS.items():
        monkeypatch.setattr(cache, name, value)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_untrained_bundle(tmp_path_factory.mktemp("bundle"))


class Desk:
    """A model version, where its parts lie, and how many pictures went through its network."""

    def __init__(self, bundle, folder: Path, version: int = 1) -> None:
        self.answers = Predictor(bundle, PyTorchEngine(bundle), Version("digits", version, ""),
                               {"batch_size": 8, "top_k": 3}, num_workers=1)  # fmt: skip
        self.parts = self.answers.open_cache(folder)
        self._counts: list[int] = []  # appended by several threads
        logits = self.answers.engine.logits

        def counting(images):
            self._counts.append(int(images.any(axis=(1, 2, 3)).sum()))  # a batch is filled up with zeros
            return logits(images)

        self.answers.engine.logits = counting

    @property
    def num_computed(self) -> int:
        return sum(self._counts)

    def predict(self, source: Path | str, out: Path, **options) -> list[dict]:
        with self.parts.cache_lock(on_busy=lambda: None):
            predict_table(open_images(str(source)), self.answers, self.parts, out, SilentProgress(), **options)
        return pq.read_table(out).to_pylist() if out.suffix == ".parquet" else []


@pytest.fixture
def desk(bundle, tmp_path):
    return Desk(bundle, tmp_path / "parts")


@pytest.fixture
def pictures(tmp_path):
    return write_digit_images(tmp_path / "pictures", classes="01", num_each=30)


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
        write_digit_images(tmp_path / "more", classes="7", num_each=1).rglob("*.png").__next__().read_bytes()
    )
    (pictures / "1" / "moved.png").write_bytes(min((pictures / "1").iterdir()).read_bytes())
    rows = desk.predict(pictures, tmp_path / "b.parquet")
    assert desk.num_computed == 61
    fresh = Desk(bundle, tmp_path / "elsewhere").predict(pictures, tmp_path / "c.parquet")
    assert rows == fresh and len(rows) == 62
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()


def test_a_picture_more_changes_its_own_part_or_cuts_it_in_two(pictures):
    def names() -> list[str]:
        return [part.name for part, _ in shard_stream(open_images(str(pictures)), "key")]

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


def test_a_damaged_part_is_said_and_its_pictures_are_predicted_again(desk, pictures, bundle, tmp_path, caplog):
    desk.predict(pictures, tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()
    for position in (0, 0.3, 0.6, 1, "cut"):
        part = min(desk.parts.folder.glob("*.parquet"))
        if position == "cut":
            os.truncate(part, 100)
        else:
            flip_bit(part, position)
        caplog.clear()
        again = Desk(bundle, tmp_path / "parts")
        again.predict(pictures, tmp_path / "a.parquet")
        assert (tmp_path / "a.parquet").read_bytes() == before and 0 < again.num_computed < 60
        (line,) = [text for text in caplog.messages if "its pictures are predicted again" in text]
        assert str(part) in line


def test_a_part_that_an_earlier_version_wrote_is_used_unless_it_is_cut_off(desk, pictures, bundle, tmp_path):
    desk.predict(pictures, tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()
    for path in desk.parts.folder.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[HEADER_BYTES:])
    again = Desk(bundle, tmp_path / "parts")
    again.predict(pictures, tmp_path / "b.parquet", new_only=True)
    again.predict(pictures, tmp_path / "a.parquet")
    assert again.num_computed == 0 and (tmp_path / "a.parquet").read_bytes() == before
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 0
    os.truncate(min(desk.parts.folder.glob("*.parquet")), 100)
    again.predict(pictures, tmp_path / "a.parquet")
    assert again.num_computed > 0 and (tmp_path / "a.parquet").read_bytes() == before


def test_a_decoder_that_died_is_tried_again_by_the_next_run(desk, pictures, tmp_path, monkeypatch):
    from imageset.rejections import Rejected
    from lightning_modules.inference import stream

    decode_stream = stream.decode_stream

    def dying(items, spec, **options):
        for key, _ in decode_stream(items, spec, **options):
            yield key, Rejected("timeout", "decoding took too long")

    with monkeypatch.context() as patch:
        patch.setattr(stream, "decode_stream", dying)
        rows = desk.predict(pictures, tmp_path / "a.parquet")
    assert {row["error"] for row in rows} == {"timeout: decoding took too long"}
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


def test_a_picture_that_may_not_be_read_keeps_its_place(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    open_file = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    pictures = list(open_images(str(tmp_path)))
    assert [picture.uri for picture, _ in pictures] == ["a.png", "b.png", "c.png"]
    assert pictures[0][0].image_id == hashlib.sha256(b"a.png").hexdigest()
    assert pictures[1][0].image_id is None and "permission denied" in pictures[1][0].error.lower()
