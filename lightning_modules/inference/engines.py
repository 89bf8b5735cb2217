"""Engines that run a bundle's network: ONNX Runtime and OpenVINO beside PyTorch, interchangeable.

On a CPU every engine runs small batches in as many single-threaded streams as there are processors: a batch stays
in the caches, and no thread waits for another thread that a decoding process has displaced.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING

import numpy as np

from imageset.executors.base import count_cpus
from imageset.utils.atomic_write import replace_folder
from imageset.utils.integrity.checked_file import read_checked, seal_file
from lightning_modules.bundle import Bundle
from lightning_modules.inference.availability import import_openvino
from lightning_modules.inference.export import export_onnx, export_openvino
from lightning_modules.scoring import CPU_BATCH_SIZE, Engine, PyTorchEngine

if TYPE_CHECKING:
    from imageset.store.reader import StoreSplit


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Args:
        files: content of `model.onnx`, by this name.
    """

    name: str = "onnxruntime"
    precision: str = "fp32"
    batch_size: int | None = CPU_BATCH_SIZE

    def __init__(self, files: Mapping[str, bytes]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.num_streams = count_cpus()
        self.session = onnxruntime.InferenceSession(
            files["model.onnx"], options, providers=["CPUExecutionProvider"]
        )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        logits: np.ndarray = self.session.run(None, {"images": images})[0]
        return logits

    def open_streams(self) -> ThreadPoolExecutor:
        """Return a pool with a thread for each stream."""
        return ThreadPoolExecutor(self.num_streams)


class OpenVinoEngine:
    """OpenVINO on the CPU.

    Args:
        files: contents of `model.xml` and `model.bin`, by these names.
        precision: "fp32", "bf16" or "int8".
    """

    name: str = "openvino"
    batch_size: int | None = CPU_BATCH_SIZE

    def __init__(self, files: Mapping[str, bytes], precision: str) -> None:
        self.precision, self.num_streams = precision, count_cpus()
        self._own = local()  # of each thread: its inference request
        core = import_openvino().Core()
        self._model = core.compile_model(
            core.read_model(files["model.xml"], files["model.bin"]), "CPU",
            {
                "NUM_STREAMS": self.num_streams, "INFERENCE_NUM_THREADS": self.num_streams,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            },
        )  # fmt: skip

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        outputs = self._own.request.infer({0: np.ascontiguousarray(images)})
        return np.array(outputs[0], np.float32)

    def open_streams(self) -> ThreadPoolExecutor:
        """Return a pool with a thread for each stream; each thread has its own inference request."""
        return ThreadPoolExecutor(self.num_streams)


def make_engine(
    bundle: Bundle,
    name: str,
    precision: str,
    folder: Path,
    validation: StoreSplit | None = None,
    report: Callable[[str], None] = print,
) -> Engine:
    """Make an engine for a bundle, and convert the network unless it was converted before.

    Args:
        bundle: the bundle to run.
        name: of the engine: "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16" or "int8".
        folder: holds the converted networks.
        validation: images from which int8 measures its ranges.
        report: shows a line about a converted network that is damaged.
    """
    if name == "pytorch":
        return PyTorchEngine(bundle, precision)
    converted = folder / f"{name}-{'int8' if precision == 'int8' else 'fp32'}"
    files = _read_converted(converted, report)
    if not files:
        with replace_folder(converted) as fresh, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "onnxruntime":
                export_onnx(bundle, fresh)
            else:
                export_openvino(bundle, fresh, validation if precision == "int8" else None)
            files = {file.name: file.read_bytes() for file in fresh.iterdir()}
            for file in sorted(fresh.iterdir()):
                seal_file(file)
    return OnnxRuntimeEngine(files) if name == "onnxruntime" else OpenVinoEngine(files, precision)


def _read_converted(folder: Path, report: Callable[[str], None]) -> dict[str, bytes]:
    """Return the files of a converted network by name; none if there are none, or one of them was damaged."""
    files = {}
    for file in sorted(folder.glob("model.*")):
        data = read_checked(file, "the network is converted again", report)
        if data is None:
            return {}
        files[file.name] = data
    return files
