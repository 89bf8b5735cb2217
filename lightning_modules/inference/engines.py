"""Engines that run a bundle's network: ONNX Runtime and OpenVINO beside PyTorch, interchangeable.

On a CPU every engine runs small batches in as many single-threaded streams as there are processors: a batch stays
in the caches, and no thread waits for another thread that a decoding process has displaced.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING

import numpy as np

from imageset.executors.base import count_cpus
from imageset.utils.atomic_write import replace_folder
from lightning_modules.bundle import Bundle
from lightning_modules.inference.availability import import_openvino
from lightning_modules.inference.export import export_onnx, export_openvino
from lightning_modules.scoring import CPU_BATCH_SIZE, Engine, PyTorchEngine

if TYPE_CHECKING:
    from imageset.store.reader import StoreSplit


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU."""

    name: str = "onnxruntime"
    precision: str = "fp32"
    batch_size: int | None = CPU_BATCH_SIZE

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.num_streams = count_cpus()
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        logits: np.ndarray = self.session.run(None, {"images": images})[0]
        return logits

    def open_streams(self) -> ThreadPoolExecutor:
        """Return a pool with a thread for each stream."""
        return ThreadPoolExecutor(self.num_streams)


class OpenVinoEngine:
    """OpenVINO on the CPU."""

    name: str = "openvino"
    batch_size: int | None = CPU_BATCH_SIZE

    def __init__(self, folder: Path, precision: str) -> None:
        self.precision, self.num_streams = precision, count_cpus()
        self._own = local()  # of each thread: its inference request
        self._model = import_openvino().Core().compile_model(
            folder / "model.xml", "CPU",
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
    bundle: Bundle, name: str, precision: str, folder: Path, validation: StoreSplit | None = None
) -> Engine:
    """Make an engine for a bundle, and convert the network unless it was converted before.

    Args:
        bundle: the bundle to run.
        name: of the engine: "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16" or "int8".
        folder: holds the converted networks.
        validation: images from which int8 measures its ranges.
    """
    if name == "pytorch":
        return PyTorchEngine(bundle, precision)
    converted = folder / f"{name}-{'int8' if precision == 'int8' else 'fp32'}"
    if not converted.is_dir():
        with replace_folder(converted) as fresh, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "onnxruntime":
                export_onnx(bundle, fresh)
            else:
                export_openvino(bundle, fresh, validation if precision == "int8" else None)
    return OnnxRuntimeEngine(converted) if name == "onnxruntime" else OpenVinoEngine(converted, precision)
