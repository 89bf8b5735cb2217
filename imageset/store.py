"""The normalized dataset on disk: written once, opened whole or not at all, read through a memory map.

images-00000.npy ...  uint8 (n, H, W, C), numpy's own format
index.parquet         one row a picture (INDEX_SCHEMA)
rejected.parquet      one row a refused picture (REJECTED_SCHEMA)
leaks.parquet         rows like the index's, of pictures that were dropped as leaks: decoded once, in no split
dataset.html          the dataset for a person (imageset.report)
dataset.json          the manifest, written last
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset.decode import DecodeSpec
from imageset.errors import UserError
from imageset.labels import MULTI_CLASS, MULTI_LABEL, borne
from imageset.ondisk import by_image_id, in_pieces, text_of
from imageset.split import SPLITS
from imageset.words import count

FORMAT = "convoy-imageset-1"
MANIFEST, INDEX, REJECTED = "dataset.json", "index.parquet", "rejected.parquet"
LEAKS = "leaks.parquet"  # only where there are some
HEADER_BYTES = 128  # numpy's header, padded so that the pixels always begin here

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.int32()),  # number of the images-*.npy
        ("row", pa.int32()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("time", pa.timestamp("us")),  # when it was taken, UTC; null where nobody says
        ("uri", pa.string()),
        ("width", pa.int32()),  # px, of the picture itself
        ("height", pa.int32()),
        ("phash", pa.uint64()),
        ("sums", pa.list_(pa.int64())),  # of the normalized pixels, per channel
        ("square_sums", pa.list_(pa.int64())),
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


def shard_name(number: int) -> str:
    """The file name of a shard of pixels."""
    return f"images-{number:05d}.npy"


def npy_header(shape: tuple[int, ...]) -> bytes:
    """numpy's header for uint8 C-order pixels of this shape, padded to HEADER_BYTES."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    text = buffer.getvalue()[10:].rstrip()
    body = text + b" " * (HEADER_BYTES - 10 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def read_index(path: Path, columns: Sequence[str] = INDEX_SCHEMA.names) -> pa.Table:
    """These columns of INDEX_SCHEMA; `time` is null in a table that was written before there were times.

    Raises:
        OSError, KeyError, ValueError, pa.ArrowException: there is none, or it is damaged.
    """
    table = pq.ParquetFile(path).read(list(columns))
    if "time" in columns and "time" not in table.column_names:
        table = table.append_column("time", pa.nulls(len(table), pa.timestamp("us")))
    return table.select(list(columns)).cast(pa.schema([INDEX_SCHEMA.field(name) for name in columns]))


def fingerprint(index: pa.Table, spec: DecodeSpec, multi_label: bool = False) -> str:
    """SHA-256 over the (image_id, label, split, group) sorted by image_id, the decode parameters and the format.

    The same pictures give the same fingerprint whatever their order, and whoever decoded them.
    """
    head = [FORMAT, spec.to_dict(), *([MULTI_LABEL] if multi_label else [])]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    rows = index.select(["image_id", "label", "split", "group"])
    for batch in in_pieces(rows, by_image_id(rows["image_id"])):
        ends = pc.binary_join_element_wise(batch["group"].fill_null(""), "", "\n")  # type: ignore[attr-defined]
        lines = pc.binary_join_element_wise(  # type: ignore[attr-defined]
            batch["image_id"], batch["label"], batch["split"], ends, "\0"
        )
        digest.update(text_of(lines))  # type: ignore[arg-type]
    return digest.hexdigest()


class ImageStore:
    """A normalized dataset, opened for reading; safe to pickle into other processes.

    Attributes:
        path: the folder.
        name: the dataset's name.
        classes: class names; a label is a position in here.
        multi_label: whether a picture may bear several of the classes, or none.
        mean, std: per channel, of the training split, pixels taken as 0..1.
        spec: how every picture was decoded.
        fingerprint: identity of the dataset (see fingerprint()).
        counts: number of pictures of each split.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], index: pa.Table) -> None:
        self.path = path
        self.manifest = dict(manifest)
        self.name: str = manifest["name"]
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.mean: tuple[float, ...] = tuple(manifest["mean"])
        self.std: tuple[float, ...] = tuple(manifest["std"])
        self.spec = DecodeSpec.from_dict(manifest["decode"])
        self.fingerprint: str = manifest["fingerprint"]
        self.multi_label: bool = manifest.get("task", MULTI_CLASS) == MULTI_LABEL
        self.counts: dict[str, int] = _num_pictures(manifest)
        self.index = index
        self._maps: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | Path, columns: Sequence[str] = INDEX_SCHEMA.names) -> ImageStore:
        """Open and check what can be checked without reading pixels.

        `columns` are those of the index that are read; image_id, shard, row, label and split must be among them.

        Raises:
            UserError: there is no dataset, or it is not whole; names the file and the way out.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{path / MANIFEST}: no such file; make the dataset with `dvc repro -f normalize`"
            ) from None
        except (ValueError, OSError) as error:
            raise _broken(path / MANIFEST, f"not readable: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise _broken(path / MANIFEST, f"not a dataset of the format {FORMAT}")
        try:
            index = read_index(path / INDEX, columns)
        except (OSError, KeyError, ValueError, pa.ArrowException):
            raise _broken(path / INDEX, "missing or damaged") from None
        try:
            store = cls(path, manifest, index)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _broken(path / MANIFEST, f"incomplete: {error}") from None
        store._check()
        return store

    def split(self, name: str) -> StoreSplit:
        """The pictures of "train", "val" or "test"."""
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        return StoreSplit(self, self.index.filter(pc.equal(self.index["split"], name)))  # type: ignore[attr-defined]

    def shard(self, number: int) -> np.ndarray:
        """The pixels of one shard as a read-only memory map, uint8 (n, H, W, C)."""
        if number not in self._maps:
            self._maps[number] = np.load(self.path / shard_name(number), mmap_mode="r", allow_pickle=False)
        return self._maps[number]

    def _check(self) -> None:
        counts = self.index["split"].value_counts().to_pylist()
        if {one["values"]: one["counts"] for one in counts} != {s: n for s, n in self.counts.items() if n}:
            raise _broken(self.path / INDEX, f"its rows do not agree with {MANIFEST}")
        _, names = borne(self.index["label"].unique(), self.multi_label)
        if not set(names.to_pylist()) <= set(self.classes):
            raise _broken(self.path / INDEX, f"holds labels that {MANIFEST} does not know")
        shards, rows = self.index["shard"].to_numpy(), self.index["row"].to_numpy()
        numbers, which = np.unique(shards, return_inverse=True)
        first, last = np.full(len(numbers), np.iinfo(np.int32).max), np.full(len(numbers), -1)
        np.minimum.at(first, which, rows)
        np.maximum.at(last, which, rows)
        for number, *ends in zip(numbers.tolist(), first.tolist(), last.tolist(), strict=True):
            self._check_shard(number, *ends)

    def _check_shard(self, number: int, first_row: int, last_row: int) -> None:
        path = self.path / shard_name(number)
        try:
            pixels = self.shard(number)
        except FileNotFoundError:
            raise _broken(path, "missing") from None
        except (ValueError, OSError, EOFError):
            raise _broken(path, "damaged or cut short") from None
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.spec.shape:
            raise _broken(path, f"holds {pixels.dtype} {pixels.shape[1:]}, not uint8 {self.spec.shape}")
        if first_row < 0 or last_row >= len(pixels):
            raise _broken(path, f"holds {count(len(pixels), 'picture')}, {INDEX} points to number {last_row:,}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a memory map would travel as a copy of all pixels


class StoreSplit:
    """One split of a store: positions 0..len-1 in a fixed order."""

    def __init__(self, store: ImageStore, rows: pa.Table) -> None:
        self.store = store
        self.rows = rows
        self._shards = rows["shard"].to_numpy()
        self._rows = rows["row"].to_numpy()

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (n,): positions in store.classes; uint8 (n, C) of 0 and 1 where a picture may bear several."""
        positions, names = borne(self.rows["label"], self.store.multi_label)
        classes = pc.index_in(names, value_set=pa.array(self.store.classes, pa.string()))  # type: ignore[attr-defined]
        numbers = classes.to_numpy(zero_copy_only=False).astype(np.int64)
        if not self.store.multi_label:
            return numbers
        labels = np.zeros((len(self), len(self.store.classes)), np.uint8)
        labels[positions, numbers] = 1
        return labels

    @cached_property
    def image_ids(self) -> list[str]:
        """SHA-256 of each picture's own bytes."""
        return self.rows["image_id"].to_pylist()

    @cached_property
    def uris(self) -> list[str]:
        """Where each picture lay in its source."""
        return self.rows["uri"].to_pylist()

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Cut pictures out of the memory map: positions (B,) -> uint8 (B, H, W, C), in the order asked for."""
        positions = np.asarray(positions)
        shards, rows = self._shards[positions], self._rows[positions]
        if len(shards) and (shards == shards[0]).all():
            return np.asarray(self.store.shard(int(shards[0]))[rows])
        batch = np.empty((len(positions), *self.store.spec.shape), np.uint8)
        for shard in np.unique(shards):
            here = shards == shard
            batch[here] = self.store.shard(int(shard))[rows[here]]
        return batch


def _num_pictures(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Pictures of each split; datasets made before there were several labels a picture count by class alone."""
    if "num_pictures" in manifest:
        return {split: int(manifest["num_pictures"][split]) for split in SPLITS}
    return {split: sum(manifest["counts"][split].values()) for split in SPLITS}


def _broken(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; make the dataset again with `dvc repro -f normalize`")


def mean_and_std(num_pixels: int, sums: list[int], square_sums: list[int]) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation in 0..1 from exact whole-number sums over pixels of 0..255."""
    means, stds = [], []
    for total, squares in zip(sums, square_sums, strict=True):
        mean = total / num_pixels
        variance = (squares * num_pixels - total * total) / num_pixels**2  # exact until the division
        means.append(mean / 255)
        stds.append(math.sqrt(variance) / 255)
    return means, stds
