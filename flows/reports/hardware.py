"""The first line of `convoy run`: where the training will run, and how long the last one took.

Nothing here imports torch, which takes seconds; the stage `train` says what torch has found and what it expects.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.notifications import console
from flows.orchestration.concurrency import name_gpu_limits
from flows.project.paths import CACHE, PARAMS
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.params import load_section
from imageset.utils.integrity.checked_file import is_json_object, read_checked
from imageset.utils.text import format_count, format_duration

logger = console.get_logger(__name__)

DURATION_FILE = CACHE / "train" / "duration.json"  # see lightning_modules.training.duration.clock
GPU_FOLDER = Path("/proc/driver/nvidia/gpus")


def describe_training(project: Project) -> str:
    """Return the device of the next training, and how long the last one took."""
    try:
        params = load_section(project / PARAMS, "train")
    except UserError:  # the stage reports it
        params = {}
    return f"training runs on {describe_device(params)}; {_describe_last_training(project)}"


def describe_device(params: Mapping[str, Any]) -> str:
    """Describe the device that the section `train` of params.yaml means: "CPU with 2 cores", "GPU NVIDIA H200"."""
    trainer = params.get("trainer") if isinstance(params.get("trainer"), Mapping) else {}
    assert isinstance(trainer, Mapping)
    num_gpus = len(name_gpu_limits())
    if trainer.get("accelerator") == "cpu" or not num_gpus or not has_cuda():
        return f"CPU with {format_count(params.get('threads') or count_cores(), 'core')}"
    if isinstance(devices := trainer.get("devices"), int) and devices > 0:
        num_gpus = min(devices, num_gpus)
    return f"{'GPU' if num_gpus == 1 else f'{num_gpus} GPUs'} {read_gpu_name()}".rstrip()


def count_cores() -> int:
    """Return how many processor cores torch uses: OMP_NUM_THREADS, else those that this process may use."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        return int(threads)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def has_cuda() -> bool:
    """Return whether the installed torch was built for GPUs; its version file says so."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b.*= *None$", text, re.MULTILINE) is None


def read_gpu_name() -> str:
    """Return the name of the first GPU as NVIDIA's driver gives it; empty if it gives none."""
    for path in sorted(GPU_FOLDER.glob("*/information")):
        if match := re.search(r"^Model:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            return match[1].strip()
    return ""


def _describe_last_training(project: Project) -> str:
    try:
        consequence = "how long it takes is estimated"
        data = read_checked(project / DURATION_FILE, consequence, logger.warning, is_json_object)
        seconds = float(json.loads(data or b"")["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return "how long it takes is estimated when it begins"
    return f"the last training took {format_duration(seconds)}"
