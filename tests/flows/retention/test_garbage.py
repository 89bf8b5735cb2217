import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml

from flows.project.exceptions import ProjectBusy
from flows.retention.garbage import collect_garbage, iter_champions
from flows.retention.stores.artifacts import ArtifactFolder
from imageset.exceptions import UserError
from lightning_modules.tracking import tags
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from tests.flows.retention.spread_project import NAME, SpreadProject, commit, decide, run
from tests.helpers.project import hold_project, set_params


def list_objects(folder: Path) -> set[str]:
    return {path.parent.name + path.name for path in (folder / "files/md5").glob("*/*")}


def version_file(spread: SpreadProject, text: str, folder: Path | None = None) -> str:
    """Version notes.txt as `dvc add` and `dvc push` do; return its MD5."""
    md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    place = folder or spread.folder
    (place / "notes.txt").write_text(text)
    entry = {"md5": md5, "size": len(text), "hash": "md5", "path": "notes.txt"}
    (place / "notes.txt.dvc").write_text(yaml.safe_dump({"outs": [entry]}))
    for store in (spread.folder / ".dvc/cache", spread.remote):
        write_object(store, md5, text)
    return md5


def write_object(store: Path, object_id: str, text: str) -> None:
    path = store / "files/md5" / object_id[:2] / object_id[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def log_run(spread: SpreadProject, version: bool = False) -> str:
    """A finished run with an artifact, registered or not."""
    client = connect_to_mlflow(spread.folder)
    run_id = client.create_run(
        ensure_experiment(client, NAME, spread.folder), tags={tags.DATASET_TAG: NAME}
    ).info.run_id
    client.log_text(run_id, "x" * 5000, "report/page.html")
    client.set_terminated(run_id)
    if version:
        client.create_model_version(NAME, f"runs:/{run_id}/report", run_id)
    return run_id


def test_it_shows_sizes_first_and_removes_only_what_no_branch_and_no_tag_needs(spread):
    cache = spread.folder / ".dvc/cache"
    kept = list_objects(cache)
    of_branch = version_file(spread, "of a branch")
    run(spread.folder, "git", "checkout", "-q", "-b", "side")
    commit(spread.folder, "side")
    of_tag = version_file(spread, "of a tag")
    commit(spread.folder, "tagged")
    run(spread.folder, "git", "tag", "v1")
    run(spread.folder, "git", "reset", "-q", "--hard", "HEAD~1")
    of_nothing = version_file(spread, "of nothing")
    of_here = version_file(spread, "of the working tree")

    text = str(collect_garbage(spread.project, is_confirmed=False))
    assert "DVC's cache: objects that no branch, tag or version needs (10 B)" in text
    assert "nothing was removed, `convoy gc --yes` does it" in text
    assert of_nothing in list_objects(cache)

    collect_garbage(spread.project, is_confirmed=True)
    assert list_objects(cache) == kept | {of_branch, of_tag, of_here}
    assert str(collect_garbage(spread.project, is_confirmed=False)).startswith("nothing to remove")


def test_a_branch_that_was_only_fetched_counts(spread):
    found = version_file(spread, "of another clone")
    run(spread.folder, "git", "checkout", "-q", "--detach")
    commit(spread.folder, "theirs")
    run(spread.folder, "git", "update-ref", "refs/remotes/origin/theirs", "HEAD")
    run(spread.folder, "git", "checkout", "-q", "-")
    collect_garbage(spread.project, is_confirmed=True)
    assert found in list_objects(spread.folder / ".dvc/cache")


def test_the_remote_loses_what_the_cache_loses(spread):
    found = version_file(spread, "of nothing")
    version_file(spread, "another")
    collect_garbage(spread.project, is_confirmed=True)
    assert found not in list_objects(spread.remote)


def test_a_bundle_that_serves_and_was_never_committed_stays(spread):
    weights, bundle = "ab" * 16, f"{'cd' * 16}.dir"
    cache = spread.folder / ".dvc/cache"
    write_object(cache, weights, "weights")
    write_object(cache, bundle, json.dumps([{"md5": weights, "relpath": "weights"}]))
    decide(spread.folder, 1, spread.run_id, {}, {"champion": 1}, dvc=bundle)
    before = list_objects(cache)
    collect_garbage(spread.project, is_confirmed=True)
    assert list_objects(cache) == before


def test_what_another_project_of_the_repository_needs_stays(spread):
    other = spread.folder / "other"
    other.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(spread.folder / name, other)
    set_params(other, name="other")
    (other / ".dvc").mkdir()
    (other / ".dvc/config").write_text("[cache]\n    dir = ../../.dvc/cache\n")
    found = version_file(spread, "of the other project", other)
    assert found in list_objects(spread.folder / ".dvc/cache")
    collect_garbage(spread.project, is_confirmed=True)
    assert found in list_objects(spread.folder / ".dvc/cache")
    with hold_project(other), pytest.raises(ProjectBusy):
        collect_garbage(spread.project, is_confirmed=True)


def test_a_commit_that_dvc_cannot_read_stops_it_before_anything_is_removed(spread):
    found = version_file(spread, "of nothing")
    version_file(spread, "another")
    text = (spread.folder / "dvc.yaml").read_text()
    (spread.folder / "dvc.yaml").write_text("stages: [")
    commit(spread.folder, "broken")
    (spread.folder / "dvc.yaml").write_text(text)
    with pytest.raises(UserError, match="nothing was changed"):
        collect_garbage(spread.project, is_confirmed=True)
    assert found in list_objects(spread.folder / ".dvc/cache")


def test_runs_that_no_version_needs_lose_their_artifacts_and_the_champion_keeps_all(spread):
    client = connect_to_mlflow(spread.folder)
    unused = log_run(spread)
    champion = client.get_run(spread.run_id)
    files = set(ArtifactFolder(champion.info.artifact_uri, "").iter_paths())
    text = str(collect_garbage(spread.project, is_confirmed=False))
    assert "MLflow: runs and models that no version needs (5.0 kB)" in text
    collect_garbage(spread.project, is_confirmed=True)
    run_of_unused = client.get_run(unused)
    assert run_of_unused.info.lifecycle_stage == "deleted"
    assert list(ArtifactFolder(run_of_unused.info.artifact_uri, "").iter_paths()) == []
    assert set(ArtifactFolder(champion.info.artifact_uri, "").iter_paths()) == files
    assert client.get_run(spread.run_id).info.lifecycle_stage == "active"


def test_earlier_champions_within_gc_keep_stay_and_older_ones_go(spread):
    client = connect_to_mlflow(spread.folder)
    run_ids = [spread.run_id, *(log_run(spread, version=True) for _ in range(3))]
    for number in (2, 3, 4):
        decide(spread.folder, number, run_ids[number - 1], {"champion": number - 1}, {"champion": number})
    client.set_registered_model_alias(NAME, "champion", "4")
    set_params(spread.folder, gc__keep=2)
    for number in (1, 2, 4):
        (spread.folder / f".cache/predictions/{NAME}-{number}-ffff").mkdir()
    collect_garbage(spread.project, is_confirmed=True)
    assert {int(one.version) for one in client.search_model_versions(f"name = '{NAME}'")} == {2, 3, 4}
    assert client.get_run(spread.run_id).info.lifecycle_stage == "deleted"
    answers = {path.name for path in (spread.folder / ".cache/predictions").iterdir()}
    assert answers == {f"{NAME}-2-ffff", f"{NAME}-4-ffff"}


def test_a_run_of_another_project_stays(spread):
    client = connect_to_mlflow(spread.folder)
    experiment = ensure_experiment(client, "other", spread.folder)
    other = client.create_run(experiment, tags={tags.DATASET_TAG: "other"}).info.run_id
    client.set_terminated(other)
    collect_garbage(spread.project, is_confirmed=True)
    assert client.get_run(other).info.lifecycle_stage == "active"


def test_on_a_shared_server_a_new_run_stays_since_another_clone_may_promote_it(spread, monkeypatch):
    new = log_run(spread)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{spread.folder / 'mlflow.db'}")
    collect_garbage(spread.project, is_confirmed=True)
    assert connect_to_mlflow(spread.folder).get_run(new).info.lifecycle_stage == "active"


def test_features_and_unfinished_trainings_but_the_newest_go(spread):
    old = time.time() - 1000
    for name in (".cache/features/old", ".cache/train/old", ".cache/train/new", ".cache/torchvision"):
        (spread.folder / name).mkdir(parents=True)
        (spread.folder / name / "file").write_text("x")
        if name.endswith("old"):
            os.utime(spread.folder / name, (old, old))
    collect_garbage(spread.project, is_confirmed=True)
    assert {path.name for path in (spread.folder / ".cache/features").iterdir()} == {"net"}
    assert {path.name for path in (spread.folder / ".cache/train").iterdir()} == {"new"}
    assert not (spread.folder / ".cache/torchvision").exists()


def write_decisions(*steps: tuple[int | None, int]) -> list[dict]:
    entries: list[dict] = []
    for before, after in steps:
        champion = {} if before is None else {"champion": before}
        entries.append({"event": "decision", "model": "m", "number": len(entries) + 1, "before": champion,
                        "after": {"champion": after}, "time": ""})  # fmt: skip
        entries.append({"event": "done", "of": len(entries), "number": len(entries) + 1, "time": ""})
    return json.loads(json.dumps(entries))


@pytest.mark.parametrize(
    ("steps", "champion", "keep", "expected"),
    [
        ([(None, 1), (1, 2), (2, 3)], 3, 3, [2, 1]),
        ([(None, 1), (1, 2), (2, 3)], 3, 1, [2]),
        ([(None, 1), (1, 2), (2, 3)], 2, 3, [1]),  # 3 was rolled back
        ([(None, 1), (1, 2), (1, 3)], 3, 3, [1]),  # 2 was rolled back before 3 was trained
        ([(None, 1)], None, 3, []),
    ],
)
def test_the_champions_that_a_rollback_goes_back_to(steps, champion, keep, expected):
    assert list(iter_champions(write_decisions(*steps), "m", champion, keep)) == expected
