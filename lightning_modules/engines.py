"""What runs a bundle's network: PyTorch, ONNX Runtime or OpenVINO; each gives the logits of the same pictures.

On a CPU every engine runs small batches in as many streams of one thread as there are processors: a batch stays
in the caches, and no thread waits for another one that a decoding process has put aside.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from imageset.atomic import replacing_folder
from imageset.errors import UserError
from imageset.pool import num_cpus
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Normalize
from lightning_modules.networks.weights import head_of

if TYPE_CHECKING:
    from imageset.store import StoreSplit

NUM_AT_ONCE = 8  # pictures of a batch on a CPU
OPSET = 17  # of ONNX
MAX_CALIBRATION = 300  # pictures from which the ranges of int8 are measured; NNCF's own default


class Engine(Protocol):
    """A network ready to run.

    Attributes:
        name: "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16" or "int8".
        num_at_once: pictures of a batch; None where more is faster, as on a GPU.
        num_streams: batches that run at the same time.
    """

    name: str
    precision: str
    num_at_once: int | None
    num_streams: int

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        ...

    def streams(self) -> Any:
        """A context with the ThreadPoolExecutor in which batches are to run."""
        ...


class Whole(nn.Module):
    """Bytes to logits in one module, so that the normalization travels with the network.

    The bundle's network is not changed, only wrapped.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.normalize = Normalize(bundle.info.mean, bundle.info.std)
        self.network = bundle.network

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> (N, num_classes)."""
        logits: Tensor = self.network(self.normalize(images))
        return logits


class PyTorchEngine:
    """PyTorch, on a GPU if there is one, else the CPU, in channels-last order."""

    name: str = "pytorch"

    def __init__(self, bundle: Bundle, precision: str = "fp32") -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision
        on_gpu = self.device.type == "cuda"
        self.num_at_once: int | None = None if on_gpu else NUM_AT_ONCE
        self.num_streams = 1 if on_gpu else num_cpus()
        self.module = Whole(bundle).to(memory_format=torch.channels_last).to(self.device).eval()

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        pixels = torch.from_numpy(np.require(images, requirements="W")).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.module(pixels)
        return logits.float().cpu().numpy()

    @contextmanager
    def streams(self) -> Iterator[ThreadPoolExecutor]:
        """On a CPU one thread for each stream, and each stream one thread of PyTorch's."""
        if self.device.type == "cuda":
            with ThreadPoolExecutor(1) as pool:
                yield pool
            return
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.num_streams, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(before)


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU."""

    name: str = "onnxruntime"
    precision: str = "fp32"
    num_at_once: int | None = NUM_AT_ONCE

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.num_streams = num_cpus()
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        logits: np.ndarray = self.session.run(None, {"images": images})[0]
        return logits

    def streams(self) -> ThreadPoolExecutor:
        """One thread for each stream."""
        return ThreadPoolExecutor(self.num_streams)


class OpenVinoEngine:
    """OpenVINO on the CPU."""

    name: str = "openvino"
    num_at_once: int | None = NUM_AT_ONCE

    def __init__(self, folder: Path, precision: str) -> None:
        self.precision, self.num_streams = precision, num_cpus()
        self._own = local()
        self._model = openvino().Core().compile_model(
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

    def streams(self) -> ThreadPoolExecutor:
        """One thread for each stream, with a request of its own."""
        return ThreadPoolExecutor(self.num_streams)


class Features:
    """A bundle's network, and what its last layer sees; without a layer that gives the logits, the logits."""

    def __init__(self, bundle: Bundle) -> None:
        self.engine = PyTorchEngine(bundle)
        network = bundle.network
        try:
            self.head: nn.Module | None = network.get_submodule(head_of(network, len(bundle.info.classes)))
        except UserError:
            self.head = None

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, C) -> float32 (N, features) and logits (N, num_classes).

        Where the last layer is a convolution, its input is averaged over all places.
        """
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) if self.head else None
        try:
            logits = self.engine.logits(images)
        finally:
            if hook is not None:
                hook.remove()
        if not seen:
            return logits, logits
        vectors = seen[-1].float()
        vectors = vectors.mean(dim=(2, 3)) if vectors.ndim == 4 else vectors.flatten(1)
        return vectors.cpu().numpy(), logits


def embed(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """What the network's last layer sees, each of length 1: uint8 (N, H, W, C) -> float32 (N, features)."""
    vectors, _ = Features(bundle)(images)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


# ---- what there is here ----------------------------------------------------------------------------------------


def missing(name: str, precision: str) -> str | None:
    """Why an engine cannot run in a precision on this machine, or None if it can."""
    packages = {"onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino",)}.get(name, ())
    if name == "openvino" and precision == "int8":
        packages = ("openvino", "nncf")
    for package in packages:
        if find_spec(package) is None:
            extra = "onnx" if name == "onnxruntime" else "openvino"
            return f"{package} is not installed (pip install 'convoy[{extra}]')"
    if name != "pytorch" and torch.cuda.is_available():
        return "there is a GPU, which only pytorch uses here"
    if precision == "bf16" and not has_bf16():
        return "this processor has no bf16 arithmetic"
    if (name, precision) in {("onnxruntime", "bf16"), ("onnxruntime", "int8"), ("pytorch", "int8")}:
        return f"{name} runs no {precision} here"
    return None


def has_bf16() -> bool:
    """Whether bf16 is faster than fp32 here: a GPU that has it, or a CPU with AVX512_BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def versions(name: str, precision: str) -> dict[str, str]:
    """The packages whose versions may change what an engine answers."""
    packages = {"onnxruntime": ["onnxruntime"], "openvino": ["openvino"]}.get(name, [])
    packages = ["torch", *packages, *(["nncf"] if precision == "int8" else [])]
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


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
        with replacing_folder(place) as fresh, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "onnxruntime":
                _export_onnx(bundle, fresh)
            else:
                _convert_openvino(bundle, fresh, validation if precision == "int8" else None)
    return OnnxRuntimeEngine(place) if name == "onnxruntime" else OpenVinoEngine(place, precision)


def _example(bundle: Bundle) -> Tensor:
    return torch.zeros((2, *bundle.spec.shape), dtype=torch.uint8)


def _export_onnx(bundle: Bundle, folder: Path) -> None:
    module = Whole(bundle).cpu().eval()
    torch.onnx.register_custom_op_symbolic("aten::adaptive_avg_pool2d", _pool_in_onnx, OPSET)
    try:
        torch.onnx.export(
            module, (_example(bundle),), str(folder / "model.onnx"), dynamo=False, opset_version=OPSET,
            input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::adaptive_avg_pool2d", OPSET)


def _pool_in_onnx(graph: Any, x: Any, grid: Any) -> Any:
    """Adaptive pooling as two products with matrices of averages: PyTorch's exporter knows only whole windows."""
    height, width = x.type().varyingSizes()[-2:]
    rows, columns = grid.node().t("value").tolist()
    if (rows, columns) == (1, 1):
        return graph.op("GlobalAveragePool", x)
    pooled = graph.op("MatMul", graph.op("Constant", value_t=_averages(rows, height)), x)
    return graph.op("MatMul", pooled, graph.op("Constant", value_t=_averages(columns, width).T.contiguous()))


def _averages(num: int, length: int) -> Tensor:
    """(num, length): row i averages the places from floor(i length / num) to ceil((i + 1) length / num)."""
    matrix = torch.zeros(num, length)
    for i in range(num):
        first, end = i * length // num, -(-(i + 1) * length // num)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


def _convert_openvino(bundle: Bundle, folder: Path, calibration: StoreSplit | None) -> None:
    ov = openvino()
    module = Whole(bundle).cpu().eval()
    model = ov.convert_model(module, example_input=_example(bundle), input=[-1, *bundle.spec.shape])
    if calibration is not None:
        model = _quantized(model, calibration)
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _quantized(model: Any, calibration: StoreSplit) -> Any:
    """NNCF's post-training quantization: weights and activations in int8, ranges from validation pictures."""
    os.environ.setdefault("NNCF_CI", "1")  # its telemetry stays off
    import logging

    with redirect_stdout(sys.stderr if sys.stderr.isatty() else Path(os.devnull).open("w")):
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # looks for a GPU on the way
        import nncf

        nncf.set_log_level(logging.ERROR)
        images = calibration.batch(np.arange(min(len(calibration), MAX_CALIBRATION)))
        pictures = [images[n : n + 1] for n in range(len(images))]
        return nncf.quantize(model, nncf.Dataset(pictures), subset_size=len(pictures))


def openvino() -> Any:
    """The package, without its telemetry, which sends events unless one has opted out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as package

    return package
