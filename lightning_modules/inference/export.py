"""Export of a bundle's network to ONNX and OpenVINO, and quantization to int8."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.bundle import Bundle
from lightning_modules.inference.availability import import_openvino
from lightning_modules.scoring import ModelWithPreprocessing

if TYPE_CHECKING:
    from imageset.store.reader import StoreSplit


ONNX_OPSET = 17
MAX_CALIBRATION_IMAGES = 300  # images from which the ranges of int8 are measured; NNCF's own default


def _make_example_batch(bundle: Bundle) -> Tensor:
    return torch.zeros((2, *bundle.spec.shape), dtype=torch.uint8)


def export_onnx(bundle: Bundle, folder: Path) -> None:
    """Write the network, its normalization included, to `model.onnx` in `folder`."""
    module = ModelWithPreprocessing(bundle).cpu().eval()
    torch.onnx.register_custom_op_symbolic("aten::adaptive_avg_pool2d", _export_adaptive_pool, ONNX_OPSET)
    try:
        torch.onnx.export(
            module, (_make_example_batch(bundle),), str(folder / "model.onnx"), dynamo=False,
            opset_version=ONNX_OPSET, input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::adaptive_avg_pool2d", ONNX_OPSET)


def _export_adaptive_pool(graph: Any, x: Any, grid: Any) -> Any:
    """Express adaptive average pooling as two matrix products.

    PyTorch's exporter knows only windows of equal size.
    """
    height, width = x.type().varyingSizes()[-2:]
    rows, columns = grid.node().t("value").tolist()
    if (rows, columns) == (1, 1):
        return graph.op("GlobalAveragePool", x)
    pooled = graph.op("MatMul", graph.op("Constant", value_t=_make_averaging_matrix(rows, height)), x)
    return graph.op(
        "MatMul", pooled, graph.op("Constant", value_t=_make_averaging_matrix(columns, width).T.contiguous())
    )


def _make_averaging_matrix(num: int, length: int) -> Tensor:
    """Return (num, length): row i averages positions floor(i length / num) to ceil((i + 1) length / num)."""
    matrix = torch.zeros(num, length)
    for i in range(num):
        first, end = i * length // num, -(-(i + 1) * length // num)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


def export_openvino(bundle: Bundle, folder: Path, calibration: StoreSplit | None) -> None:
    """Write the network, its normalization included, to `model.xml` and `model.bin` in `folder`.

    Args:
        bundle: the bundle to convert.
        folder: an existing folder.
        calibration: images from which the ranges of int8 are measured; None for a network in fp32.
    """
    ov = import_openvino()
    module = ModelWithPreprocessing(bundle).cpu().eval()
    model = ov.convert_model(module, example_input=_make_example_batch(bundle), input=[-1, *bundle.spec.shape])
    if calibration is not None:
        model = _quantize(model, calibration)
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _quantize(model: Any, calibration: StoreSplit) -> Any:
    """Quantize weights and activations to int8 with NNCF; the ranges come from validation images."""
    os.environ.setdefault("NNCF_CI", "1")  # keeps NNCF's telemetry off
    import logging

    with redirect_stdout(sys.stderr if sys.stderr.isatty() else Path(os.devnull).open("w")):
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns about a missing GPU
        import nncf

        nncf.set_log_level(logging.ERROR)
        images = calibration.read_batch(np.arange(min(len(calibration), MAX_CALIBRATION_IMAGES)))
        batches = [images[n : n + 1] for n in range(len(images))]
        return nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
