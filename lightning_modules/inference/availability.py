"""Availability of engines and precisions on this machine, and their versions."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from imageset.distribution import format_install_command

ENGINE_PACKAGES = ("torch.onnx", "onnx", "openvino", "nncf")  # onnxruntime's name begins with onnx
SHORTAGE = re.compile(r"alloc|memory|no space|resource|timed? ?out|interrupt|too many open", re.IGNORECASE)


def describe_unavailability(name: str, precision: str) -> str | None:
    """Return why an engine cannot run in a precision on this machine, or None if it can.

    Args:
        name: of the engine: "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16" or "int8".
    """
    packages = {"onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino",)}.get(name, ())
    if name == "openvino" and precision == "int8":
        packages = ("openvino", "nncf")
    for package in packages:
        if find_spec(package) is None:
            extra = "onnx" if name == "onnxruntime" else "openvino"
            return f"{package} is not installed ({format_install_command(extra)})"
    if name != "pytorch" and torch.cuda.is_available():
        return "there is a GPU, which only pytorch uses here"
    if precision == "bf16" and not has_bf16():
        return "this processor has no bf16 arithmetic"
    if (name, precision) in {("onnxruntime", "bf16"), ("onnxruntime", "int8"), ("pytorch", "int8")}:
        return f"{name} runs no {precision} here"
    return None


def is_lasting_failure(error: Exception) -> bool:
    """Return whether an engine will fail again: one of its packages says so, and not for want of memory or disk.

    Everything else may have passed at the next call: an import that was interrupted, a full disk, a damaged file.
    """
    is_of_engine = type(error).__module__.startswith(ENGINE_PACKAGES)
    return is_of_engine and SHORTAGE.search(str(error)) is None


def has_bf16() -> bool:
    """Return whether bf16 is faster than fp32 here: a GPU with bf16, or a CPU with AVX512_BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def list_package_versions(name: str, precision: str) -> dict[str, str]:
    """Return the versions of the packages that may change an engine's predictions, by package."""
    packages = {"onnxruntime": ["onnxruntime"], "openvino": ["openvino"]}.get(name, [])
    packages = ["torch", *packages, *(["nncf"] if precision == "int8" else [])]
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which sends events unless the user has opted out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as package

    return package
