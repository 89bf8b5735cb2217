"""The normalized dataset on disk: written once, opened whole or not at all, read through a memory map.

images-00000.npy ...  uint8 (n, H, W, C), numpy's own format
index.parquet         one row a picture (INDEX_SCHEMA)
rejected.parquet      one row a refused picture (REJECTED_SCHEMA)
leaks.parquet         rows like the index's, of pictures that were dropped as leaks: decoded once, in no split
dataset.html          the dataset for a person (imageset.normalize.dataset_page)
dataset.json          the manifest, written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.labels import MULTI_CLASS, MULTI_LABEL, build_label_pairs
from imageset.store.format import (
    DATASET_FORMAT,
    DATASET_MANIFEST_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    SPLITS,
    name_pixel_shard,
)
from imageset.utils.text import format_count


def read_index(path: Path, columns: Sequence[str] = INDEX_SCHEMA.names) -> pa.Table:
    """These columns of INDEX_SCHEMA; `time` is null in a table that was written before there were times.

    Raises:
        OSError, KeyError, ValueError, pa.ArrowException: there is none, or it is damaged.
    """
    table = pq.ParquetFile(path).read(list(columns))
    if "time" in columns and "time" not in table.column_names:
        table = table.append_column("time", pa.nulls(len(table), pa.timestamp("us")))
    return table.select(list(columns)).cast(pa.schema([INDEX_SCHEMA.field(name) for name in columns]))


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
        self.counts: dict[str, int] = _num_images_by_split(manifest)
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
            manifest = json.loads((path / DATASET_MANIFEST_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{path / DATASET_MANIFEST_FILE}: no such file; make the dataset with `dvc repro -f normalize`"
            ) from None
        except (ValueError, OSError) as error:
            raise _build_broken_error(path / DATASET_MANIFEST_FILE, f"not readable: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") != DATASET_FORMAT:
            raise _build_broken_error(
                path / DATASET_MANIFEST_FILE, f"not a dataset of the format {DATASET_FORMAT}"
            )
        try:
            index = read_index(path / INDEX_FILE, columns)
        except (OSError, KeyError, ValueError, pa.ArrowException):
            raise _build_broken_error(path / INDEX_FILE, "missing or damaged") from None
        try:
            store = cls(path, manifest, index)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _build_broken_error(path / DATASET_MANIFEST_FILE, f"incomplete: {error}") from None
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
            self._maps[number] = np.load(self.path / name_pixel_shard(number), mmap_mode="r", allow_pickle=False)
        return self._maps[number]

    def _check(self) -> None:
        counts = self.index["split"].value_counts().to_pylist()
        if {one["values"]: one["counts"] for one in counts} != {s: n for s, n in self.counts.items() if n}:
            raise _build_broken_error(
                self.path / INDEX_FILE, f"its rows do not agree with {DATASET_MANIFEST_FILE}"
            )
        _, names = build_label_pairs(self.index["label"].unique(), self.multi_label)
        if not set(names.to_pylist()) <= set(self.classes):
            raise _build_broken_error(
                self.path / INDEX_FILE, f"holds labels that {DATASET_MANIFEST_FILE} does not know"
            )
        shards, rows = self.index["shard"].to_numpy(), self.index["row"].to_numpy()
        numbers, which = np.unique(shards, return_inverse=True)
        first, last = np.full(len(numbers), np.iinfo(np.int32).max), np.full(len(numbers), -1)
        np.minimum.at(first, which, rows)
        np.maximum.at(last, which, rows)
        for number, *ends in zip(numbers.tolist(), first.tolist(), last.tolist(), strict=True):
            self._check_shard(number, *ends)

    def _check_shard(self, number: int, first_row: int, last_row: int) -> None:
        path = self.path / name_pixel_shard(number)
        try:
            pixels = self.shard(number)
        except FileNotFoundError:
            raise _build_broken_error(path, "missing") from None
        except (ValueError, OSError, EOFError):
            raise _build_broken_error(path, "damaged or cut short") from None
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.spec.shape:
            raise _build_broken_error(
                path, f"holds {pixels.dtype} {pixels.shape[1:]}, not uint8 {self.spec.shape}"
            )
        if first_row < 0 or last_row >= len(pixels):
            raise _build_broken_error(
                path, f"holds {format_count(len(pixels), 'picture')}, {INDEX_FILE} points to number {last_row:,}"
            )

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
        positions, names = build_label_pairs(self.rows["label"], self.store.multi_label)
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

    def read_batch(self, positions: np.ndarray) -> np.ndarray:
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


def _num_images_by_split(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Pictures of each split; datasets made before there were several labels a picture count by class alone."""
    if "num_pictures" in manifest:
        return {split: int(manifest["num_pictures"][split]) for split in SPLITS}
    return {split: sum(manifest["counts"][split].values()) for split in SPLITS}


def _build_broken_error(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; make the dataset again with `dvc repro -f normalize`")
