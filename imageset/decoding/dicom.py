"""DICOM, the format of medical images, through pydicom (the extra `dicom`).

Only the elements that pixels depend on are read, and no message quotes one: a header names patients.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from imageset.decoding.bit_depth import Peak, scale_values
from imageset.decoding.spec import DecodeSpec, ImageHeader
from imageset.distribution import format_install_command
from imageset.rejections import Rejected

_ELEMENTS = [
    *("SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleIntercept", "RescaleSlope", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
]
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_AIR_HU = 1024  # Hounsfield units of a CT begin at -1024
_MAX_INFLATED_BYTES = 255_000_000  # as much as a file may have
_META_START, _GROUP_LENGTH_BYTES = 132, 12  # of the file meta information, DICOM PS3.10, 7.1
_MAX_META_BYTES = 4096
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # Deflated Explicit VR Little Endian, DICOM PS3.5, A.5


def read_dicom_header(data: bytes) -> ImageHeader:
    """Read the size of the image and whether it is grey.

    Raises:
        Rejected: pydicom is not installed, the file holds no single image, or it inflates to too many bytes.
    """
    dataset = _read_dataset(data)
    return ImageHeader("DICOM", int(dataset.Columns), int(dataset.Rows), _is_grey(dataset))


def decode_dicom(data: bytes, spec: DecodeSpec) -> tuple[Image.Image, Peak | None]:
    """Decode the image to "L" or "RGB".

    Values are rescaled to their unit. The window of the header, if there is one, says which of them are black and
    white, as in a viewer; without one it is the range of the dataset, as for other images of more than 8 bits.

    Returns:
        (the image, its highest value if the range of the dataset applies, else None).

    Raises:
        Rejected: the pixels cannot be decoded.
    """
    dataset = _read_dataset(data)
    stored = _read_pixels(dataset)
    if not _is_grey(dataset):
        return Image.fromarray(_to_rgb(stored, dataset)), None
    pixels, peak = _scale_grey(stored, dataset, spec)
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # the lowest value is white
        pixels = 255 - pixels
    return Image.fromarray(pixels), peak


def _read_dataset(data: bytes) -> Any:
    pydicom = _load_pydicom()
    try:
        _check_inflated(data)
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=_ELEMENTS)
        if not any(name in dataset for name in _PIXELS):
            raise Rejected("unsupported", f"DICOM without a picture ({dataset.get('Modality') or 'no modality'})")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames > 1:
            raise Rejected("unsupported", f"DICOM of {frames:,} frames; export each as a picture of its own")
        _ = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation
        _ = dataset.file_meta.TransferSyntaxUID.name
        return dataset
    except Rejected:
        raise
    except EOFError:
        raise Rejected("truncated", f"DICOM of {len(data):,} bytes that ends too early") from None
    except Exception as error:  # its text may quote the header
        raise Rejected("undecodable", f"DICOM: the header is damaged ({type(error).__name__})") from None


def _check_inflated(data: bytes) -> None:
    """Raise Rejected if a deflated file holds more bytes than a file may have: pydicom inflates it as a whole."""
    meta = data[_META_START : _META_START + _MAX_META_BYTES]
    if _DEFLATED not in meta:
        return
    (length,) = struct.unpack_from("<I", meta, _GROUP_LENGTH_BYTES - 4)
    start = _META_START + _GROUP_LENGTH_BYTES + length
    inflater, rest, num_bytes = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
    while rest:
        num_bytes += len(inflater.decompress(rest, 1 << 20))
        rest = inflater.unconsumed_tail
        if num_bytes > _MAX_INFLATED_BYTES:
            raise Rejected("bomb", f"DICOM of {len(data):,} bytes that inflates to over {_MAX_INFLATED_BYTES:,}")


@lru_cache(maxsize=1)
def _load_pydicom() -> ModuleType:
    try:
        import pydicom
    except ImportError:
        command = format_install_command("dicom")
        raise Rejected("unsupported", f"DICOM; to decode it: {command}") from None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def _is_grey(dataset: Any) -> bool:
    return dataset.SamplesPerPixel == 1 and dataset.PhotometricInterpretation != "PALETTE COLOR"


def _read_pixels(dataset: Any) -> np.ndarray:
    """Return the stored values, (H, W) or (H, W, 3)."""
    syntax = dataset.file_meta.TransferSyntaxUID
    compressed = Rejected(
        "unsupported",
        f"DICOM compressed as {syntax.name}, which pydicom cannot decode here; convert it with `gdcmconv --raw`, "
        "or install pylibjpeg with its plug-ins",
    )
    if syntax.is_compressed and not _has_decoder(syntax):
        raise compressed
    if syntax.is_encapsulated:
        _check_frame(dataset)
    try:
        return np.asarray(dataset.pixel_array)
    except MemoryError:
        raise Rejected("bomb", "decoding it needs more memory than there is") from None
    except Exception as error:  # its text may quote the header
        if "less than expected" in str(error) or isinstance(error, EOFError):
            raise Rejected("truncated", "DICOM whose pixels end too early") from None
        if syntax.is_compressed and isinstance(error, RuntimeError):  # no plug-in of pydicom succeeds
            raise compressed from None
        raise Rejected("undecodable", f"DICOM ({syntax.name}): {type(error).__name__}") from None


def _check_frame(dataset: Any) -> None:
    """Raise Rejected if the compressed picture is larger than the header says, by which the limits were judged."""
    from pydicom.encaps import get_frame

    try:
        with Image.open(io.BytesIO(get_frame(dataset.PixelData, 0, number_of_frames=1))) as image:
            size = image.size
    except Exception:  # not a format of Pillow's, or damaged: the decoder tells
        return
    if size[0] > dataset.Columns or size[1] > dataset.Rows:
        stated = f"{dataset.Columns} x {dataset.Rows}"
        raise Rejected("undecodable", f"DICOM of {stated} pixels that holds a picture of {size[0]} x {size[1]}")


def _has_decoder(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _to_rgb(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Return uint8 (H, W, 3)."""
    from pydicom.pixels import apply_color_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        return (stored >> 8).astype(np.uint8) if stored.dtype.itemsize > 1 else stored
    shift = max(0, int(dataset.BitsStored) - 8)
    return (stored >> shift).astype(np.uint8)


def _scale_grey(stored: np.ndarray, dataset: Any, spec: DecodeSpec) -> tuple[np.ndarray, Peak | None]:
    """Return (uint8 (H, W), highest value if the range of the dataset applies, else None)."""
    slope, intercept = (
        float(dataset.get(name) or default) for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    window = _read_window(dataset)
    if window is None and stored.dtype == np.uint8 and (slope, intercept) == (1, 0):
        highest = (1 << min(8, int(dataset.BitsStored))) - 1  # 1 in a segmentation
        return np.rint(stored * (255 / highest)).astype(np.uint8), None
    values = stored * slope + intercept
    if window:
        return _apply_window(values, *window, str(dataset.get("VOILUTFunction") or "LINEAR")), None
    if dataset.get("Modality") == "CT":
        values = np.maximum(values + _AIR_HU, 0)
    is_integer = stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer()
    return scale_values(np.rint(values).astype(np.int64) if is_integer else values, spec)


def _read_window(dataset: Any) -> tuple[float, float] | None:
    """Return (centre, width) of the first window of the header."""
    centre, width = (_take_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return (centre, width) if centre is not None and width is not None and width > 1 else None


def _take_first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) else value[0])


def _apply_window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Return uint8: the values within a window, by the functions of DICOM PS3.3, C.11.2.1."""
    if function == "SIGMOID":
        levels = 1 / (1 + np.exp(-4 * (values - centre) / width))
    elif function == "LINEAR_EXACT":
        levels = (values - centre) / width + 0.5
    else:
        levels = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8)
