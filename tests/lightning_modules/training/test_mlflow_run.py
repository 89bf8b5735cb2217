from imageset.store.reader import ImageStore
from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.training.mlflow_run import close_killed_runs
from lightning_modules.training.unfinished_training import RunState


def test_dvc_hash_is_the_digest_where_dvc_has_one(fresh):
    from lightning_modules.training.mlflow_run import read_dataset_digest

    store = ImageStore.open(fresh / "data/normalized")
    (fresh / "dvc.lock").write_text("stages: {normalize: {outs: [{path: data/normalized, md5: 0a1b.dir}]}}")
    assert read_dataset_digest(fresh, store) == "0a1b.dir"


def test_what_was_killed_and_never_called_again_is_said_to_be_killed(project):
    client = connect_to_mlflow(project)
    runs = [client.create_run("0").info.run_id for _ in range(3)]
    works = [RunState(project / ".cache/train" / name) for name in ("killed", "running", "this")]
    for work, run_id in zip(works, runs, strict=True):
        work.folder.mkdir(parents=True)
        work.save_run_id(run_id)
    with works[1].run_lock():
        close_killed_runs(client, works[2])
    assert [client.get_run(run_id).info.status for run_id in runs] == ["KILLED", "RUNNING", "RUNNING"]
