"""The files of data/normalized: names, schemas, splits, and the fixed header of a .npy shard."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.decoding.spec import DecodeSpec
from imageset.labels import MULTI_LABEL
from imageset.utils.arrow import argsort_image_ids, iter_slices, to_utf8_bytes

SPLITS = ("train", "val", "test")

DATASET_FORMAT = "convoy-imageset-1"
DATASET_MANIFEST_FILE, INDEX_FILE, REJECTED_FILE = "dataset.json", "index.parquet", "rejected.parquet"
LEAKS_FILE = "leaks.parquet"  # exists only if there are leaks
PEAKS_FILE = "peaks.parquet"  # exists only if there are images of more than 8 bits a channel
PIXEL_SHARD_SUFFIX = ".npy"
NPY_HEADER_BYTES = 128  # numpy's header, padded so that the pixels always start here

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.int32()),  # number of the images-*.npy
        ("row", pa.int32()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("time", pa.timestamp("us")),  # when the image was taken, UTC; null if unknown
        ("uri", pa.string()),
        ("width", pa.int32()),  # pixels, of the original image
        ("height", pa.int32()),
        ("phash", pa.uint64()),
        ("sums", pa.list_(pa.int64())),  # of the normalized pixels, for each channel
        ("square_sums", pa.list_(pa.int64())),
    ]
)
PEAKS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("peak", pa.float32()),  # highest value in the original image
        ("is_float", pa.bool_()),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("image_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


def name_pixel_shard(number: int) -> str:
    """Return the file name of a pixel shard."""
    return f"images-{number:05d}{PIXEL_SHARD_SUFFIX}"


def build_npy_header(shape: tuple[int, ...]) -> bytes:
    """Return numpy's header for uint8 pixels of this shape in C order, padded to NPY_HEADER_BYTES."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    text = buffer.getvalue()[10:].rstrip()
    body = text + b" " * (NPY_HEADER_BYTES - 10 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def compute_fingerprint(index: pa.Table, spec: DecodeSpec, multi_label: bool = False) -> str:
    """Compute the SHA-256 of a dataset's content.

    It covers image_id, label, split and group of all rows, sorted by image_id, the decode parameters and the
    format. The same images give the same fingerprint in any order and with any executor.

    Args:
        index: a table with the columns image_id, label, split and group.
        spec: the decode parameters.
        multi_label: whether the dataset is multi-label.
    """
    head = [DATASET_FORMAT, spec.to_dict(), *([MULTI_LABEL] if multi_label else [])]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    rows = index.select(["image_id", "label", "split", "group"])
    for batch in iter_slices(rows, argsort_image_ids(rows["image_id"])):
        ends = pc.binary_join_element_wise(batch["group"].fill_null(""), "", "\n")  # type: ignore[attr-defined]
        lines = pc.binary_join_element_wise(  # type: ignore[attr-defined]
            batch["image_id"], batch["label"], batch["split"], ends, "\0"
        )
        digest.update(to_utf8_bytes(lines))  # type: ignore[arg-type]
    return digest.hexdigest()
