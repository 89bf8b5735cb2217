import json

import pytest

from flows.project.project import Project
from flows.reports import hardware


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Two GPUs and a torch that can use them."""
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
        (tmp_path / "gpus" / name / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    monkeypatch.setattr(hardware, "GPU_FOLDER", tmp_path / "gpus")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(hardware, "has_cuda", lambda: True)


def test_a_machine_without_a_gpu_trains_on_its_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert hardware.describe_device({"trainer": {"accelerator": "auto"}}) == "CPU with 2 cores"
    assert hardware.describe_device({"threads": 1}) == "CPU with 1 core"
    assert hardware.describe_device({"trainer": None}) == "CPU with 2 cores"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert hardware.count_cores() >= 1


@pytest.mark.parametrize(
    ("trainer", "described"),
    [
        ({}, "2 GPUs NVIDIA H200"),
        ({"devices": "auto"}, "2 GPUs NVIDIA H200"),
        ({"devices": 1}, "GPU NVIDIA H200"),
        ({"accelerator": "cpu"}, "CPU with 3 cores"),
    ],
)
def test_gpus_are_named_unless_params_yaml_says_cpu(gpus, trainer, described):
    assert hardware.describe_device({"threads": 3, "trainer": trainer}) == described


def test_gpus_that_torch_cannot_use_are_not_named(gpus, monkeypatch):
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)
    assert hardware.describe_device({"threads": 3}) == "CPU with 3 cores"


def test_whether_torch_was_built_for_gpus_is_read_from_its_version():
    import torch

    assert hardware.has_cuda() == (torch.version.cuda is not None)


def test_how_long_the_last_training_took_is_said_once_it_is_known(tmp_path):
    (tmp_path / "params.yaml").write_text("train: {threads: 2, trainer: {accelerator: cpu}}\n")
    project = Project(tmp_path)
    assert hardware.describe_training(project) == (
        "training runs on CPU with 2 cores; how long it takes is estimated when it begins"
    )
    (tmp_path / ".cache/train").mkdir(parents=True)
    (tmp_path / ".cache/train/duration.json").write_text(json.dumps({"seconds": 171.3}))
    assert hardware.describe_training(project).endswith("; the last training took about 3 min")
    (tmp_path / ".cache/train/duration.json").write_text("{")
    assert hardware.describe_training(project).endswith("is estimated when it begins")
