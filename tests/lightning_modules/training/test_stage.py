import csv
import json
import shutil
import signal
import time

import mlflow
import pytest

from flows.promotion import model_registry
from imageset.exceptions import UserError
from imageset.store.reader import ImageStore
from lightning_modules.tracking.client import connect_to_mlflow
from tests.helpers.processes import obey_hangup
from tests.helpers.project import run_stage, set_params, start_stage


def note(project):
    return json.loads((project / "data/models/classifier/run.json").read_text())


def weights(project):
    return (project / "data/models/classifier/weights.safetensors").read_bytes()


def history(project):
    return (project / "data/models/classifier/history.csv").read_bytes()


def wait_for(path, process, timeout_s=120):
    until = time.monotonic() + timeout_s
    while not path():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def finished(trained):
    client = connect_to_mlflow(trained)
    return client, client.get_run(note(trained)["run_id"])


def test_a_training_is_one_finished_run_with_all_parameters(finished, trained):
    _, run = finished
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["model.network.class_path"] == "lightning_modules.networks.ConvNet"
    assert (params["trainer.max_epochs"], params["model.optimizer.init_args.lr"]) == ("3", "0.002")
    assert params["seed_everything"] == "0"


@pytest.mark.parametrize("metric", ["train_loss", "train_accuracy", "val_loss", "val_accuracy"])
def test_each_curve_has_one_point_an_epoch(finished, metric):
    client, run = finished
    history = client.get_metric_history(run.info.run_id, metric)
    assert [point.step for point in history] == [0, 1, 2]


def test_the_training_learns(finished):
    _, run = finished
    assert run.data.metrics["val_accuracy"] > 0.8


def test_the_dataset_is_an_input_of_the_run(finished, trained):
    _, run = finished
    (entry,) = run.inputs.dataset_inputs
    store = ImageStore.open(trained / "data/normalized")
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", store.fingerprint[:32])


def test_the_page_of_the_dataset_is_an_artifact_of_the_run(finished):
    client, run = finished
    assert [file.path for file in client.list_artifacts(run.info.run_id, "dataset")] == ["dataset/dataset.html"]


def test_the_model_has_a_signature_and_an_input_example_and_predicts(finished, trained):
    model = mlflow.pyfunc.load_model(note(trained)["model_uri"])
    assert [column.name for column in model.metadata.signature.inputs] == ["image", "path", "pixels"]
    predicted = model.predict(model.input_example)
    assert list(predicted["status"]) == ["ok", "ok"]
    assert set(predicted["label"]) <= set("0123456789")


def test_the_registered_model_answers_for_each_picture_and_names_what_it_cannot_read(finished, trained):
    import pandas as pd

    pictures = sorted((trained / "data/digits/7").iterdir())[:2]
    model = mlflow.pyfunc.load_model(note(trained)["model_uri"])
    rows = [pictures[0].read_bytes(), b"no picture", pictures[1].read_bytes()]
    predicted = model.predict(pd.DataFrame({"image": rows}))
    assert list(predicted["status"]) == ["ok", "error", "ok"]
    assert predicted["error"][1].startswith("not_an_image")


def test_a_finished_training_leaves_no_checkpoint_behind(trained):
    assert sorted(path.name for path in (trained / ".cache/train").iterdir()) == ["duration.json", "finished.json"]


def test_the_history_for_plots_has_a_row_an_epoch(trained):
    with (trained / "data/models/classifier/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["train_loss"]) > 0 for row in rows)


def test_the_same_training_twice_gives_the_same_weights(trained, fresh):
    code, output = run_stage(fresh, "fit")
    assert code == 0, output
    assert weights(fresh) == weights(trained)


def steps(project):
    """After how many steps there are checkpoints."""
    return [int(path.name.split("-")[1]) for path in (project / ".cache/train").glob("*/last-*.ckpt")]


def test_a_training_killed_within_an_epoch_goes_on_in_the_same_run_even_if_its_checkpoint_is_damaged(
    trained, fresh
):
    set_params(fresh, train__checkpoint_every_min=0)
    process = start_stage(fresh, "lightning_modules", "fit")
    wait_for(lambda: max(steps(fresh), default=0) > 20, process)  # 18 steps are an epoch
    process.kill()
    process.communicate()
    (begun,) = (fresh / ".cache/train").glob("*/run_id")
    run_id, after = begun.read_text(), sorted(steps(fresh))[-2]
    newest = max((fresh / ".cache/train").glob("*/last-*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-1000])

    code, output = run_stage(fresh, "fit")
    assert code == 0, output
    assert f"{newest.name}: damaged and removed; the one before it is used" in output
    assert f"train: resuming after step {after}, " in output
    assert note(fresh)["run_id"] == run_id
    assert weights(fresh) == weights(trained)
    assert history(fresh) == history(trained)
    client = connect_to_mlflow(fresh)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run_id, "train_loss")] == [0, 1, 2]


@pytest.mark.long
def test_a_training_whose_end_dvc_did_not_record_is_repeated_in_its_own_run_without_a_second_point(
    trained, tmp_path
):
    project = shutil.copytree(trained, tmp_path / "killed", symlinks=True)
    run_id = note(project)["run_id"]
    shutil.rmtree(project / "data/models/classifier")  # as DVC does before it runs the stage again
    code, output = run_stage(project, "fit")
    assert code == 0, output
    assert (note(project)["run_id"], weights(project)) == (run_id, weights(trained))
    client = connect_to_mlflow(project)
    (experiment,) = [e for e in client.search_experiments() if e.name == "digits"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    for metric in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run_id, metric)]
        assert len(steps) == len(set(steps)), metric


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_any_signal_ends_a_training_with_its_status_and_no_traceback(fresh, number):
    set_params(fresh, train__trainer__max_epochs=200)
    process = start_stage(fresh, "lightning_modules", "fit", preexec_fn=obey_hangup)
    wait_for(lambda: steps(fresh), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output and output.endswith("stopped\n")
    (begun,) = (fresh / ".cache/train").glob("*/run_id")
    assert connect_to_mlflow(fresh).get_run(begun.read_text()).info.status == "KILLED"


def test_a_terminated_training_exits_with_143_and_writes_no_model(fresh):
    set_params(fresh, train__trainer__max_epochs=200, train__checkpoint_every_min=1000)
    process = start_stage(fresh, "lightning_modules", "fit")
    wait_for(lambda: steps(fresh), process)
    time.sleep(0.5)  # into the next epoch: at the end of one, a signal is obeyed without another checkpoint
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 143, output
    assert not (fresh / "data/models/classifier").exists()
    (begun,) = (fresh / ".cache/train").glob("*/run_id")
    assert connect_to_mlflow(fresh).get_run(begun.read_text()).info.status == "KILLED"
    assert len(steps(fresh)) == 2  # after an epoch, and after the batch in which the signal came


def test_a_loss_that_is_not_finite_stops_the_training_and_registers_nothing(fresh):
    set_params(fresh, train__model__optimizer__init_args__lr=1e30, train__trainer__gradient_clip_val=None)
    code, output = run_stage(fresh, "fit")
    assert code == 2
    assert "error: the training loss is not finite at epoch 0, batch " in output
    assert "Traceback" not in output
    assert not (fresh / "data/models/classifier").exists()
    client = connect_to_mlflow(fresh)
    (experiment,) = [e for e in client.search_experiments() if e.name == "digits"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    with pytest.raises(UserError, match="FAILED, not FINISHED"):
        model_registry.require_finished_run(client, run.info.run_id)


def test_training_stops_when_the_error_reaches_the_target(fresh):
    set_params(fresh, train__stop_at_error=0.95)
    code, output = run_stage(fresh, "fit")
    assert code == 0, output
    points = connect_to_mlflow(fresh).get_metric_history(note(fresh)["run_id"], "val_error")
    assert len(points) == 1 and points[0].value <= 0.95
    reason = "the validation error is at or below stop_at_error, 0.95"
    assert f"train: training ended after epoch 1 of 3: {reason}\n" in output


def test_training_stops_when_the_validation_loss_no_longer_falls(fresh):
    set_params(fresh, train__patience=1, train__trainer__max_epochs=30)
    set_params(fresh, train__model__optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}})
    code, output = run_stage(fresh, "fit")
    assert code == 0, output
    assert "of 30: val_loss has not fallen for 1 epoch (patience)\n" in output


def test_a_training_that_its_time_ends_says_so(fresh):
    set_params(fresh, train__trainer__max_time="00:00:00:01", train__trainer__max_epochs=500)
    code, output = run_stage(fresh, "fit")
    assert code == 0, output
    assert "of 500: trainer.max_time or trainer.max_steps is reached\n" in output


@pytest.mark.parametrize("network", [pytest.param("ConvNet", marks=pytest.mark.long), "LeNet5"])
def test_colour_pictures_are_trained_on_too(fresh, network):
    set_params(fresh, normalize__channels=3, train__trainer__max_epochs=1)
    if network == "LeNet5":
        set_params(fresh, train__model__network={"class_path": "lightning_modules.networks.LeNet5"})
    shutil.rmtree(fresh / "data/normalized")
    assert run_stage(fresh, "normalize", "imageset")[0] == 0
    for name in ("fit", "test"):
        code, output = run_stage(fresh, name)
        assert code == 0, output


@pytest.mark.long
def test_a_network_of_torchvision_by_its_plain_name_is_trained_registered_and_tested(fresh):
    set_params(fresh, train__model__network="mobilenet_v3_small", train__trainer__max_epochs=1)
    set_params(fresh, train__model__ema=0.9, train__model__mixup=0.2, train__model__imbalance="sampler")
    for name in ("fit", "test"):
        code, output = run_stage(fresh, name)
        assert code == 0, output
    bundle = json.loads((fresh / "data/models/classifier/bundle.json").read_text())
    assert bundle["info"]["network"] == {
        "class_path": "lightning_modules.networks.TorchvisionNet",
        "init_args": {"name": "mobilenet_v3_small", "stem": "small"},
    }
    params = connect_to_mlflow(fresh).get_run(note(fresh)["run_id"]).data.params
    assert params["model.network.init_args.name"] == "mobilenet_v3_small"
    assert params["trainer.precision"] in ("32-true", "bf16-mixed")


@pytest.mark.parametrize("where", ["cpu", "gpu", "python"])
def test_too_little_memory_names_what_to_lower(digits_project, monkeypatch, where):
    import torch

    from lightning_modules.training import checkpointing, stage

    def use_up(*_):
        if where == "cpu":
            torch.empty(2**50, dtype=torch.uint8)
        raise MemoryError if where == "python" else torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(stage, "fit_and_log", use_up)
    monkeypatch.setattr(checkpointing.StopRequest, "listen", lambda self: None)
    monkeypatch.chdir(digits_project)
    with pytest.raises(
        UserError, match=r"lower train\.data\.batch_size \(now 64\) or normalize\.size_px \(now 16\)"
    ):
        stage.fit(digits_project)


def test_a_broken_dataset_is_one_line(fresh):
    (fresh / "data/normalized/index.parquet").write_bytes(b"broken")
    code, output = run_stage(fresh, "fit")
    assert code == 2
    assert "index.parquet" in output and "dvc repro" in output and "Traceback" not in output


FAILS_IN_TRAINING = """\
from torch import nn
class Net(nn.Sequential):
    def __init__(self, in_channels, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * 16 * 16, num_classes))
    def forward(self, images):
        if self.training:
            raise ValueError("this fails")
        return super().forward(images)
"""


@pytest.mark.long
def test_an_unfinished_training_does_not_resume_after_the_networks_own_module_was_edited(fresh):
    def count_unfinished() -> int:
        code, output = run_stage(fresh, "fit")
        assert code == 1 and "this fails" in output, output
        return len(list((fresh / ".cache/train").glob("*/run_id")))

    (fresh / "mynet.py").write_text(FAILS_IN_TRAINING)
    set_params(fresh, train__model__network="mynet.Net")
    assert [count_unfinished(), count_unfinished()] == [1, 1]
    (fresh / "mynet.py").write_text(f"{FAILS_IN_TRAINING}# edited\n")
    assert count_unfinished() == 2
