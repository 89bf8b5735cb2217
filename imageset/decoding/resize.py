"""Antialiased resizing of uint8 pixels by torch's kernel: a third of Pillow's time, equal within 0.002 of 255.

`import torch` takes three seconds, most of them for Python modules that decoding does not need. A process that has
not imported torch therefore loads only its C library, in a third of a second, and calls the kernel through torch's
stable C interface (torch/csrc/stable/c/shim.h: kept compatible from release to release). If that fails, torch is
imported. Either way it happens when the first image is resized, and torchvision is never loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from ctypes import byref, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np

RESIZE_MODES = ("bilinear", "bicubic")

ResizeKernel: TypeAlias = Callable[[np.ndarray, str, np.ndarray], None]


def resize_antialiased(pixels: np.ndarray, mode: str, out: np.ndarray) -> None:
    """Resize pixels into an array.

    Args:
        pixels: uint8 (H, W, C).
        mode: one of RESIZE_MODES.
        out: uint8 (height, width, C), C-contiguous, filled with the result.
    """
    _choose_kernel()(np.ascontiguousarray(pixels), mode, out)


def load_resize_kernel() -> None:
    """Load the resize kernel now rather than when the first image is resized."""
    _choose_kernel()


@lru_cache(maxsize=1)
def _choose_kernel() -> ResizeKernel:
    if "torch" not in sys.modules:
        try:
            return _LibTorch().resize
        except (OSError, AttributeError, StopIteration, RuntimeError):
            pass
    return _resize_with_torch


def _resize_with_torch(pixels: np.ndarray, mode: str, out: np.ndarray) -> None:
    import torch

    kernels = torch.ops.aten
    # private operators of torch, read in version 2.15.0
    kernel = kernels._upsample_bilinear2d_aa if mode == "bilinear" else kernels._upsample_bicubic2d_aa
    with torch.inference_mode():
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, C, H, W), a view
        out[:] = kernel(planes, out.shape[:2], False)[0].permute(1, 2, 0).numpy()


class _LibTorch:
    """The C library of torch, loaded without the Python package around it.

    Raises:
        OSError: the library does not load.
        StopIteration: there is no such library.
        AttributeError: the library is older than the stable C interface.
        RuntimeError: a call fails or gives a wrong result.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec("torch")  # finds the package without importing it
        folders = (spec.submodule_search_locations if spec else None) or []
        files = (Path(folder) / "lib" / "libtorch_cpu.so" for folder in folders)
        library = ctypes.CDLL(str(next(file for file in files if file.is_file())))
        self._from_memory = library.aoti_torch_create_tensor_from_blob
        self._from_memory.argtypes = [
            *(c_void_p, c_int64, ctypes.POINTER(c_int64), ctypes.POINTER(c_int64), c_int64),
            *(c_int32, c_int32, c_int32, ctypes.POINTER(c_void_p)),
        ]
        self._new_list = library.torch_new_list_reserve_size
        self._new_list.argtypes = [c_size_t, ctypes.POINTER(c_void_p)]
        self._append = library.torch_list_push_back
        self._append.argtypes = [c_void_p, c_uint64]
        self._call = library.aoti_torch_call_dispatcher
        self._call.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(c_uint64)]
        self._free = library.aoti_torch_delete_tensor_object
        self._free.argtypes = [c_void_p]
        trial = np.zeros((2, 2, 3), np.uint8)
        self.resize(np.full((5, 4, 3), 7, np.uint8), "bilinear", trial)
        if (trial != 7).any():
            raise RuntimeError

    def resize(self, pixels: np.ndarray, mode: str, out: np.ndarray) -> None:
        """Resize as `resize_antialiased` does; `pixels` must be C-contiguous."""
        extent = c_void_p()
        _check_status(self._new_list(2, byref(extent)))
        for number in out.shape[:2]:
            _check_status(self._append(extent, number))
        source, target = self._create_tensor(pixels), self._create_tensor(out)
        # (input, output_size, align_corners, scales_h, scales_w, out) -> out; the call takes ownership of the
        # references. The operator is private to torch, read in version 2.15.0.
        stack = (c_uint64 * 6)(source.value or 0, extent.value or 0, 0, 0, 0, target.value or 0)
        _check_status(self._call(f"aten::_upsample_{mode}2d_aa".encode(), b"out", stack))
        self._free(stack[0])

    def _create_tensor(self, pixels: np.ndarray) -> c_void_p:
        """Create a tensor (1, C, H, W) over the memory of (H, W, C) pixels."""
        (height, width, channels), (row_stride, column_stride, channel_stride) = pixels.shape, pixels.strides
        tensor = c_void_p()
        shape, strides = (1, channels, height, width), (pixels.size, channel_stride, row_stride, column_stride)
        address, four_ints = pixels.ctypes.data, c_int64 * 4
        uint8 = cpu = 0
        sizes = four_ints(*shape), four_ints(*strides)
        _check_status(self._from_memory(address, 4, *sizes, 0, uint8, cpu, 0, byref(tensor)))
        return tensor


def _check_status(status: int) -> None:
    if status:
        raise RuntimeError(f"libtorch returned the status {status}")
