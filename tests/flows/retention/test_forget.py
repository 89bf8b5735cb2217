import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from flows.prediction.cache import PredictionCache
from flows.promotion import ledger
from flows.retention.byte_search import ByteSearch, iter_files
from flows.retention.forget import forget
from flows.retention.journal import JOURNAL
from flows.versioning import dvc_repo
from flows.versioning.forgotten_list import FORGOTTEN, read_forgotten
from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.raw.shards import read_image_bytes
from imageset.store.reader import ImageStore
from lightning_modules.bundle import check_bundle
from tests.flows.retention.spread_project import SpreadProject, hash_picture
from tests.helpers.datasets import snapshot

# Called as a program of its own: it kills itself before its n-th step.
KILLED = """
import os, signal, sys
from pathlib import Path
from flows.project.project import Project
from flows.retention import actions, forget
left = [int(sys.argv[1])]
def die():
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
for module, name in ((forget, "add_forgotten"), (forget, "search_everything"), (forget, "record"),
                     (forget, "remove_journal")):
    def stop_before(*arguments, call=getattr(module, name)):
        die()
        return call(*arguments)
    setattr(module, name, stop_before)
plan = forget.make_plan
def make_plan(*arguments):
    made = plan(*arguments)
    for action in made.actions:
        def run(call=action.run):
            die()
            call()
        object.__setattr__(action, "run", run)
    return made
forget.make_plan = make_plan
forget.forget(Project(Path.cwd()), sys.argv[2:], Path.cwd(), is_confirmed=True)
"""


def find_copies(spread: SpreadProject, contents: list[bytes]) -> list[str]:
    """The files of the project, its cache, its remote and its artifacts that hold a content."""
    search = ByteSearch.of(contents)
    files = [*iter_files(spread.folder), *iter_files(spread.remote)]
    return [str(path) for path in files if search.is_in_file(path.open("rb"))]


def read_contents(spread: SpreadProject, file: Path) -> list[bytes]:
    """The bytes of a picture, and its pixels."""
    store = ImageStore.open(spread.folder / "data/normalized")
    row = store.index["image_id"].to_pylist().index(hash_picture(file))
    return [file.read_bytes(), store.open_shard(0)[row].tobytes()]


@pytest.mark.parametrize("split", ["train", pytest.param("val", marks=pytest.mark.long), "test"])
def test_a_forgotten_picture_is_nowhere_afterwards_and_the_others_stay(spread, split):
    gone = spread.find_file(split)
    contents = read_contents(spread, gone)
    assert len(find_copies(spread, contents)) > 8
    others = {hash_picture(file): file.read_bytes() for file in spread.source.rglob("*.png") if file != gone}
    before = ImageStore.open(spread.folder / "data/normalized")
    pixels = dict(zip(before.index["image_id"].to_pylist(), np.array(before.open_shard(0)), strict=True))

    result = forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)

    assert "nothing left" in str(result)
    assert result.is_complete
    assert find_copies(spread, contents) == []
    assert dict(read_image_bytes(spread.folder / "data/raw", others)) == others
    after = ImageStore.open(spread.folder / "data/normalized")
    assert set(after.index["image_id"].to_pylist()) == set(others)
    for row, image_id in zip(after.index["row"].to_pylist(), after.index["image_id"].to_pylist(), strict=True):
        assert (after.open_shard(0)[row] == pixels[image_id]).all()
    assert not (spread.folder / JOURNAL).exists()


def test_without_yes_nothing_is_changed_and_everything_is_named(spread):
    gone = spread.find_file("train")
    before = {path: path.stat().st_mtime_ns for path in iter_files(spread.folder / "data")}
    text = str(forget(spread.project, [hash_picture(gone)], spread.folder, is_confirmed=False))
    assert {path: path.stat().st_mtime_ns for path in iter_files(spread.folder / "data")} == before
    assert not (spread.folder / FORGOTTEN).exists()
    for place in ("data/raw", "data/normalized", "data/models/report", "MLflow's artifacts", "DVC's cache",
                  "DVC's remote 'store'", ".cache/predictions", ".cache/features", "data/predictions/p.review",
                  "data/monitor"):  # fmt: skip
        assert f"\n{place}: " in text
    assert f"learnt from it: digits-few version 1 (run {spread.run_id[:12]})" in text
    assert text.endswith("nothing was changed; `--yes` does it")


def test_the_ledger_names_the_digest_and_the_models_that_learnt_from_it(spread):
    gone = spread.find_file("train")
    forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    entry = ledger.read_ledger(spread.project)[-1]
    assert (entry["event"], entry["image_ids"], entry["left"]) == ("forgotten", [hash_picture(gone)], 0)
    assert entry["learnt_by"] == [{"model": "digits-few", "version": 1, "run": spread.run_id}]
    assert gone.name not in json.dumps(entry)


def test_a_forgotten_picture_does_not_come_back_with_the_next_ingest(spread):
    gone = spread.find_file("train")
    forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    raw = spread.folder / "data/raw"
    summary = ingest_source(spread.source, raw, name="digits-few", forgotten=read_forgotten(spread.project))
    assert (summary.num_forgotten, summary.num_new) == (1, 0)
    assert gone.read_bytes() not in b"".join(snapshot(raw).values())


def test_dvc_names_the_new_version_and_runs_nothing_but_what_depends_on_it(spread):
    forget(spread.project, [str(spread.find_file("val"))], spread.folder, is_confirmed=True)
    changed = dvc_repo.find_changed_stages(spread.project)
    assert changed["train"] == ["data/normalized modified"]  # the bundle without its reference is no change
    assert "normalize" not in changed
    assert "data/raw.dvc" not in changed
    dvc_repo.repro(spread.project)
    assert dvc_repo.find_changed_stages(spread.project) == {}


def test_a_bundle_keeps_its_digest_without_its_reference(spread):
    folder = spread.folder / "data/models/classifier"
    digest = check_bundle(folder)[1]
    forget(spread.project, [str(spread.find_file("val"))], spread.folder, is_confirmed=True)
    assert not (folder / "reference.safetensors").exists()
    assert check_bundle(folder)[1] == digest
    (folder / "reference.forgotten").unlink()
    with pytest.raises(UserError, match=r"reference\.safetensors"):
        check_bundle(folder)


def test_caches_lose_its_rows_only(spread):
    gone = spread.find_file("train")
    image_id = hash_picture(gone)
    forget(spread.project, [image_id], spread.folder, is_confirmed=True)
    (answers,) = (spread.folder / ".cache/predictions").glob("*/*.parquet")
    ids = PredictionCache(answers.parent, "").load_shard(answers.stem)["image_id"].to_pylist()
    assert (image_id in ids, len(ids)) == (False, 47)
    assert answers.stem in (answers.parent / "delivered.txt").read_text().split()
    (features,) = (spread.folder / ".cache/features/net").iterdir()
    assert features.stem == hashlib.sha256(features.read_bytes()).hexdigest()
    assert len(load_file(features)["plain"]) == 47
    review = spread.folder / "data/predictions/p.review"
    assert image_id not in (review / "review.csv").read_text()
    assert len(list((review / "data").iterdir())) == 47
    assert len(list((spread.folder / "data/monitor").glob("*.html"))) == 1


def test_pictures_are_named_by_a_list_or_as_in_the_source(spread):
    one, two = spread.find_file("train", 0), spread.find_file("train", 1)
    name = one.relative_to(spread.source).as_posix()
    forget(spread.project, [name, hash_picture(two).upper()], spread.folder, is_confirmed=True)
    assert read_forgotten(spread.project) == {hash_picture(one), hash_picture(two)}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nobody.png", r"nobody\.png: neither an image_id"),
        ("a" * 64, r"a{64}: no picture of this project, now or in a version"),
        ("data", r"data: a folder; name its files"),
    ],
)
def test_an_unknown_picture_is_an_error_and_changes_nothing(spread, word, message):
    with pytest.raises(UserError, match=message):
        forget(spread.project, [word], spread.folder, is_confirmed=True)
    assert not (spread.folder / FORGOTTEN).exists()


def test_a_copy_in_a_file_of_the_users_is_named_and_left(spread):
    gone = spread.find_file("train")
    (spread.folder / "mine.png").write_bytes(gone.read_bytes())
    result = forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    assert not result.is_complete
    assert "left: mine.png; Convoy does not change it" in str(result)
    assert (spread.folder / "mine.png").exists()


def test_a_copy_in_a_cache_or_an_object_of_no_version_is_found_by_its_content(spread):
    gone = spread.find_file("train")
    (spread.folder / ".cache/sample.bin").write_bytes(b"--" + gone.read_bytes())
    stray = spread.remote / "files/md5/ab/cdef"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(gone.read_bytes())
    result = forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    assert "found by the search and removed: .cache/sample.bin, abcdef of DVC's remote 'store'" in str(result)
    assert find_copies(spread, [gone.read_bytes()]) == []


def test_a_picture_of_the_same_pixels_stays_and_is_said(spread):
    gone = spread.find_file("train")
    twin = gone.with_name("twin.png")
    twin.write_bytes(gone.read_bytes() + b"0")  # behind the end of the picture
    ingest_source(spread.source, spread.folder / "data/raw", name="digits-few")
    dvc_repo.add_raw(spread.project, str(spread.source), "digits-few")
    dvc_repo.run_dvc(spread.folder, "repro", "normalize")
    text = str(forget(spread.project, [str(gone)], spread.folder, is_confirmed=True))
    assert "not searched for: " in text
    assert hash_picture(twin) in ImageStore.open(spread.folder / "data/normalized").index["image_id"].to_pylist()


def test_what_was_forgotten_before_is_said_and_written_once(spread):
    gone = spread.find_file("val")
    forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    for word in (hash_picture(gone), str(gone)):
        text = str(forget(spread.project, [word], spread.folder, is_confirmed=True))
        assert text.startswith("forgotten: 1 picture; it was before\nsearched ")
    assert [entry["event"] for entry in ledger.read_ledger(spread.project)].count("forgotten") == 1


def test_a_folder_that_a_killed_process_was_replacing_is_not_lost(spread):
    gone = spread.find_file("train")
    raw = spread.folder / "data/raw"
    raw.rename(raw.with_name(".raw.earlier"))  # between the two renames of `replace_folder`
    raw.with_name(".raw.partial").mkdir()
    forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    others = {hash_picture(file): file.read_bytes() for file in spread.source.rglob("*.png") if file != gone}
    assert dict(read_image_bytes(raw, others)) == others
    assert not list(raw.parent.glob(".raw.*"))


def forget_and_die(spread: SpreadProject, step: int, *words: str) -> int:
    done = subprocess.run([sys.executable, "-c", KILLED, str(step), *words], cwd=spread.folder, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stdout
    return done.returncode


@pytest.mark.long
@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 22, 26, 30, 33, 36])
def test_a_command_that_was_killed_is_completed_by_the_next_one(spread, step):
    gone = spread.find_file("val")
    contents = read_contents(spread, gone)
    forget_and_die(spread, step, str(gone))
    if (spread.folder / JOURNAL).exists():
        forget(spread.project, [], spread.folder, is_confirmed=True)
    assert find_copies(spread, contents) == []
    events = Counter(entry["event"] for entry in ledger.read_ledger(spread.project))
    assert events["forgotten"] == 1
    assert read_forgotten(spread.project) == {hash_picture(gone)}
    check_bundle(spread.folder / "data/models/classifier")
    dvc_repo.repro(spread.project)


def test_a_command_that_failed_half_way_is_completed_without_naming_the_picture_again(spread, monkeypatch):
    from flows.retention import project_files

    gone = spread.find_file("train")
    contents = read_contents(spread, gone)

    def fail(*_: object) -> None:
        raise UserError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(project_files, "forget_features", fail)
        with pytest.raises(UserError, match="no space left"):
            forget(spread.project, [str(gone)], spread.folder, is_confirmed=True)
    assert find_copies(spread, contents)
    text = str(forget(spread.project, [], spread.folder, is_confirmed=True))
    assert "learnt from it: digits-few version 1" in text
    assert find_copies(spread, contents) == []


def test_without_a_picture_and_a_journal_it_says_what_to_name(spread):
    with pytest.raises(UserError, match="name a picture to forget"):
        forget(spread.project, [], spread.folder, is_confirmed=True)


def test_a_path_begins_at_the_folder_where_the_command_is_typed(spread, monkeypatch, capsys):
    from flows.cli.commands import build_parser, run_command

    gone, folder = spread.find_file("train"), spread.folder / "data/inbox"
    folder.mkdir()
    (folder / "a.png").write_bytes(gone.read_bytes())
    (folder / "list.txt").write_text("# withdrawn\n\na.png\n")
    monkeypatch.chdir(folder)
    for words in (["a.png"], ["--list", "list.txt"]):
        monkeypatch.chdir(folder)
        assert run_command(build_parser().parse_args(["forget", *words])) == 0
        assert hash_picture(gone) in capsys.readouterr().out
