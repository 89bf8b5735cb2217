"""What runs a bundle's network: PyTorch, ONNX Runtime or OpenVINO; each gives the logits of the same pictures.

On a CPU every engine runs small batches in as many streams of one thread as there are processors: a batch stays
in the caches, and no thread waits for another one that a decoding process has put aside.
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
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        logits: np.ndarray = self.session.run(None, {"images": images})[0]
        return logits

    def open_streams(self) -> ThreadPoolExecutor:
        """One thread for each stream."""
        return ThreadPoolExecutor(self.num_streams)


class OpenVinoEngine:
    """OpenVINO on the CPU."""

    name: str = "openvino"
    batch_size: int | None = CPU_BATCH_SIZE

    def __init__(self, folder: Path, precision: str) -> None:
        self.precision, self.num_streams = precision, count_cpus()
        self._own = local()
        self._model = import_openvino().Core().compile_model(
            folder / "model.xml", "CPU",
            {
                "NUM_STREAMS": self.num_streams, "INFERENCE_NUM_THREADS": self.num_streams,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            },
        )  # fmt: skip

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        answer = self._own.request.infer({0: np.ascontiguousarray(images)})
        return np.array(answer[0], np.float32)

    def open_streams(self) -> ThreadPoolExecutor:
        """One thread for each stream, with a request of its own."""
        return ThreadPoolExecutor(self.num_streams)


# ---- making them -----------------------------------------------------------------------------------------------


def make_engine(
    bundle: Bundle, name: str, precision: str, folder: Path, validation: StoreSplit | None = None
) -> Engine:
    """An engine for a bundle. What it is converted to is kept in `folder`, and taken from there the next time.

    Args:
        validation: pictures from which int8 measures its ranges.
    """
    if name == "pytorch":
        return PyTorchEngine(bundle, precision)
    place = folder / f"{name}-{'int8' if precision == 'int8' else 'fp32'}"
    if not place.is_dir():
        with replace_folder(place) as fresh, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "onnxruntime":
                export_onnx(bundle, fresh)
            else:
                export_openvino(bundle, fresh, validation if precision == "int8" else None)
    return OnnxRuntimeEngine(place) if name == "onnxruntime" else OpenVinoEngine(place, precision)
