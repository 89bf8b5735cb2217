"""The reader of a normalized dataset, which is written once, validated when opened, and read through a memory map.

images-00000.npy ...  uint8 (n, H, W, C), in numpy's format
index.parquet         one row for each image (INDEX_SCHEMA)
rejected.parquet      one row for each rejected image (REJECTED_SCHEMA)
leaks.parquet         rows as in the index, for images that were dropped as leaks: decoded, but in no split
peaks.parquet         the highest value of each image of more than 8 bits a channel (PEAKS_SCHEMA)
dataset.html          the page that shows the dataset (imageset.normalize.dataset_page)
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
    PIXEL_SHARD_SUFFIX,
    SPLITS,
    name_pixel_shard,
)
from imageset.utils.atomic_write import hash_file
from imageset.utils.integrity.file_digests import DIGESTS_KEY, find_damaged_files, is_intact_manifest
from imageset.utils.text import format_count


def read_index(path: Path, columns: Sequence[str] = INDEX_SCHEMA.names) -> pa.Table:
    """Read columns of an index.

    Args:
        path: index.parquet or leaks.parquet.
        columns: names in INDEX_SCHEMA; `time` is null if the table was written before that column existed.

    Raises:
        OSError: the file is missing or cannot be read.
        KeyError: a column is missing.
        ValueError: the file is damaged.
        pa.ArrowException: the file is damaged.
    """
    table = pq.ParquetFile(path).read(list(columns))
    if "time" in columns and "time" not in table.column_names:
        table = table.append_column("time", pa.nulls(len(table), pa.timestamp("us")))
    return table.select(list(columns)).cast(pa.schema([INDEX_SCHEMA.field(name) for name in columns]))


def check_table(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a table of a dataset with its digest in the manifest; one of an earlier version has none.

    Raises:
        ValueError: the table is damaged.
    """
    digest = manifest.get(DIGESTS_KEY, {}).get(path.name)
    if digest is not None and hash_file(path) != digest:
        raise ValueError(f"{path.name}: damaged")


def find_damaged_dataset_files(path: Path) -> list[str]:
    """Return the names of the files of a dataset that do not have their digests; every byte is read.

    Args:
        path: the folder of a dataset. One of an earlier version has no digests, so that nothing is found.
    """
    try:
        manifest = json.loads((path / DATASET_MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [DATASET_MANIFEST_FILE]
    if not isinstance(manifest, dict) or not is_intact_manifest(manifest):
        return [DATASET_MANIFEST_FILE]
    return find_damaged_files(path, manifest.get(DIGESTS_KEY, {}), thorough=True)


class ImageStore:
    """A normalized dataset, opened for reading; it can be pickled and sent to other processes.

    Attributes:
        path: the folder.
        manifest: the content of dataset.json.
        name: the dataset's name.
        classes: class names; a label is a position in this tuple.
        multi_label: whether an image may have several of the classes, or none.
        mean: for each channel, of the training split, with pixels scaled to 0..1.
        std: likewise.
        spec: the parameters by which every image was decoded.
        fingerprint: identity of the dataset (see format.compute_fingerprint).
        counts: number of images in each split.
        index: the table of the images.
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
        self.counts: dict[str, int] = _count_images_by_split(manifest)
        self.index = index
        self._maps: dict[int, np.ndarray] = {}

    @classmethod
    def open(
        cls, path: str | Path, columns: Sequence[str] = INDEX_SCHEMA.names, *, check_pixels: bool = True
    ) -> ImageStore:
        """Open a dataset and validate it: its tables, and the shards that were changed since their last check.

        Args:
            path: the folder.
            columns: the columns of the index to read; they include image_id, shard, row, label and split.
            check_pixels: whether shards are compared with their digests.

        Raises:
            UserError: the dataset is missing or incomplete; the message names the file and the remedy.
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
        if not is_intact_manifest(manifest):
            raise _build_broken_error(path / DATASET_MANIFEST_FILE, "damaged")
        try:
            check_table(path / INDEX_FILE, manifest)
            index = read_index(path / INDEX_FILE, columns)
        except (OSError, KeyError, ValueError, pa.ArrowException):
            raise _build_broken_error(path / INDEX_FILE, "missing or damaged") from None
        try:
            store = cls(path, manifest, index)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _build_broken_error(path / DATASET_MANIFEST_FILE, f"incomplete: {error}") from None
        store._check()
        if check_pixels and (damaged := store.find_damaged_shards()):
            raise _build_broken_error(path / damaged[0], "damaged")
        return store

    def find_damaged_shards(self, *, thorough: bool = False) -> list[str]:
        """Return the names of the shards that do not have their digests.

        Args:
            thorough: whether every shard is read; otherwise those that were changed since their last check.
        """
        digests = self.manifest.get(DIGESTS_KEY, {}).items()
        shards = {name: digest for name, digest in digests if name.endswith(PIXEL_SHARD_SUFFIX)}
        return find_damaged_files(self.path, shards, thorough=thorough)

    def split(self, name: str) -> StoreSplit:
        """Return the images of "train", "val" or "test"."""
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        return StoreSplit(self, self.index.filter(pc.equal(self.index["split"], name)))  # type: ignore[attr-defined]

    def open_shard(self, number: int) -> np.ndarray:
        """Return the pixels of a shard as a read-only memory map, uint8 (n, H, W, C)."""
        if number not in self._maps:
            self._maps[number] = np.load(self.path / name_pixel_shard(number), mmap_mode="r", allow_pickle=False)
        return self._maps[number]

    def _check(self) -> None:
        counts = self.index["split"].value_counts().to_pylist()
        if {row["values"]: row["counts"] for row in counts} != {s: n for s, n in self.counts.items() if n}:
            raise _build_broken_error(self.path / INDEX_FILE, f"its rows do not match {DATASET_MANIFEST_FILE}")
        _, names = build_label_pairs(self.index["label"].unique(), self.multi_label)
        if not set(names.to_pylist()) <= set(self.classes):
            raise _build_broken_error(
                self.path / INDEX_FILE, f"holds labels that are missing from {DATASET_MANIFEST_FILE}"
            )
        shards, rows = self.index["shard"].to_numpy(), self.index["row"].to_numpy()
        numbers, positions = np.unique(shards, return_inverse=True)
        first, last = np.full(len(numbers), np.iinfo(np.int32).max), np.full(len(numbers), -1)
        np.minimum.at(first, positions, rows)
        np.maximum.at(last, positions, rows)
        for number, first_row, last_row in zip(numbers.tolist(), first.tolist(), last.tolist(), strict=True):
            self._check_shard(number, first_row, last_row)

    def _check_shard(self, number: int, first_row: int, last_row: int) -> None:
        path = self.path / name_pixel_shard(number)
        try:
            pixels = self.open_shard(number)
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
                path, f"holds {format_count(len(pixels), 'picture')}, {INDEX_FILE} refers to number {last_row:,}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a memory map would travel as a copy of all pixels


class StoreSplit:
    """A split of a dataset: images at positions 0..len-1 in a fixed order.

    Attributes:
        store: the dataset.
        rows: the rows of its index.
    """

    def __init__(self, store: ImageStore, rows: pa.Table) -> None:
        self.store = store
        self.rows = rows
        self._shards = rows["shard"].to_numpy()
        self._rows = rows["row"].to_numpy()

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels: int64 (n,), positions in store.classes; for multi-label uint8 (n, classes) of 0 and 1."""
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
        """The SHA-256 of each image's original bytes."""
        return self.rows["image_id"].to_pylist()

    @cached_property
    def uris(self) -> list[str]:
        """The place of each image in its source."""
        return self.rows["uri"].to_pylist()

    def read_batch(self, positions: np.ndarray) -> np.ndarray:
        """Copy images out of the memory map.

        Args:
            positions: integers (B,).

        Returns:
            uint8 (B, H, W, C), in the order of `positions`.
        """
        positions = np.asarray(positions)
        shards, rows = self._shards[positions], self._rows[positions]
        if len(shards) and (shards == shards[0]).all():
            return np.asarray(self.store.open_shard(int(shards[0]))[rows])
        batch = np.empty((len(positions), *self.store.spec.shape), np.uint8)
        for shard in np.unique(shards):
            in_shard = shards == shard
            batch[in_shard] = self.store.open_shard(int(shard))[rows[in_shard]]
        return batch


def _count_images_by_split(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of images of each split; manifests older than multi-label datasets count by class only."""
    if "num_pictures" in manifest:
        return {split: int(manifest["num_pictures"][split]) for split in SPLITS}
    return {split: sum(manifest["counts"][split].values()) for split in SPLITS}


def _build_broken_error(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: {problem}; make the dataset again with `dvc repro -f normalize`")
