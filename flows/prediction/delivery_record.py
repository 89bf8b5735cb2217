"""The record of the images whose rows are in a table that was written, for `--new-only` and the inbox.

.cache/predictions/NAME-VERSION.delivered.txt       one image_id and its CRC-32 a line
.cache/predictions/NAME-VERSION-xxxxxxxx/
    delivering.json                                 the table that is being put in its place
    delivered.txt                                   of an earlier Convoy: the shards of tables that were written
    delivered.taken                                 which delivered.txt was taken over: its time of change

An image counts by the model's version and its image_id alone: not by the engine, the parameters, the decoder and
the packages, which name the folders of the cache. Those that an earlier Convoy recorded still count. The record
grows by lines, so each of them is checked for itself.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from flows.notifications import console
from flows.prediction.cache import RETRIED_SUFFIX, PredictionCache, is_transient
from imageset.utils.atomic_write import hash_file, sync_file, write_text
from imageset.utils.file_lock import file_lock
from imageset.utils.integrity.checked_file import is_json_object, read_checked, write_checked
from imageset.utils.text import format_count

logger = console.get_logger(__name__)

NOTE, EARLIER_RECORD, TAKEN_OVER = "delivering.json", "delivered.txt", "delivered.taken"
CACHE_FOLDER = re.compile(r"(.+)-[0-9a-f]{8}")  # NAME-VERSION and the key of the cache
ID_BYTES = 32
LINE = re.compile(r"^([0-9a-f]{64}) [0-9a-f]{8}$", re.MULTILINE)
SHARD_NAMES = re.compile(rb"([0-9a-f]{32}(-retried)?\n)*")  # of an earlier record


class DeliveryRecord:
    """The images of one model version whose rows are in a table that was written.

    Args:
        cache: of the version; the caller holds its lock.
    """

    def __init__(self, cache: PredictionCache) -> None:
        self.cache = cache
        match = CACHE_FOLDER.fullmatch(cache.folder.name)
        self.version = match[1] if match else cache.folder.name
        self.path = cache.folder.with_name(f"{self.version}.delivered.txt")

    def load_index(self) -> DeliveredImages:
        """Return the images that are in a table which was written, whatever else has changed since."""
        for folder in self._list_folders():
            self._take_over_earlier(folder)
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            text = b""
        delivered = DeliveredImages(text)
        if delivered.num_damaged:
            num = format_count(delivered.num_damaged, "damaged line")
            logger.warning(f"{self.path}: {num}; --new-only gives the pictures of such lines again")
        return delivered

    def commit_output(self, temporary: Path, out: Path, names: list[str]) -> None:
        """Move a finished table to `out` and record its images.

        If the process is killed in between, the next call learns from the table's digest whether it was moved.

        Args:
            temporary: the table.
            out: its place.
            names: its shards.
        """
        note = {"out": str(out.absolute()), "sha256": hash_file(temporary), "names": names}
        write_checked(self.cache.folder / NOTE, json.dumps(note).encode())
        sync_file(temporary)
        os.replace(temporary, out)
        self.finish_commit()

    def finish_commit(self) -> tuple[Path | None, list[str]]:
        """Record a table that was moved by a run which was killed before it recorded that.

        Returns:
            The table's path and its shards; (None, []) if there is none of this cache.
        """
        for folder in self._list_folders():
            if folder != self.cache.folder and (folder / NOTE).exists():  # from before an upgrade
                try:
                    with file_lock(folder / ".lock", wait=False):
                        self._finish(folder)
                except BlockingIOError:  # its own process finishes it
                    continue
        return self._finish(self.cache.folder)

    def _finish(self, folder: Path) -> tuple[Path | None, list[str]]:
        path = folder / NOTE
        consequence = "the last table may count as not written: --new-only gives its pictures again"
        data = read_checked(path, consequence, logger.warning, is_json_object)
        if data is None:
            return None, []
        note = json.loads(data)
        out = Path(note["out"])
        is_moved = out.is_file() and hash_file(out) == note["sha256"]
        if is_moved:
            self._append(_iter_image_ids(folder, note["names"]))
        path.unlink()
        return (out, note["names"]) if is_moved else (None, [])

    def _append(self, image_ids: Iterable[str]) -> None:
        """Append the images that are not there already."""
        with file_lock(self.path) as file:  # of other engines
            text = self.path.read_bytes()
            file.truncate(text.rfind(b"\n") + 1)  # the process that wrote the last line may have been killed
            known = DeliveredImages(text)
            file.writelines(
                format_line(image_id) for image_id in dict.fromkeys(image_ids) if image_id not in known
            )
            file.flush()
            os.fsync(file.fileno())
        sync_file(self.path.parent)

    def _list_folders(self) -> list[Path]:
        """Return the folders of the cache of this version, of any engine and of earlier packages."""
        folders = [path for path in self.path.parent.iterdir() if path.is_dir()]
        return sorted(
            path for path in folders if (match := CACHE_FOLDER.fullmatch(path.name)) and match[1] == self.version
        )

    def _take_over_earlier(self, folder: Path) -> None:
        """Add the images that an earlier Convoy recorded in a folder, unless that has been done since."""
        earlier, taken = folder / EARLIER_RECORD, folder / TAKEN_OVER
        if not earlier.is_file():
            return
        changed = str(earlier.stat().st_mtime_ns)
        if taken.is_file() and taken.read_text(encoding="utf-8") == changed:
            return
        consequence = "--new-only gives every picture of it again"
        data = read_checked(earlier, consequence, logger.warning, _is_list_of_shards)
        self._append(_iter_image_ids(folder, (data or b"").decode().split()))
        write_text(taken, changed)


def format_line(image_id: str) -> str:
    """Return the line of the record about an image."""
    return f"{image_id} {zlib.crc32(image_id.encode()):08x}\n"


def _is_list_of_shards(data: bytes) -> bool:
    return SHARD_NAMES.fullmatch(data) is not None


def _iter_image_ids(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield the images in some shards, without those that failed for a reason that may pass."""
    cache = PredictionCache(folder, "")
    for name in names:
        for candidate in (name, name + RETRIED_SUFFIX):
            columns = cache.load_shard(candidate, ["image_id", "error"])
            if columns is None:
                continue
            for image_id, error in zip(columns["image_id"].to_pylist(), columns["error"].to_pylist(), strict=True):
                if image_id is not None and not is_transient(error):
                    yield image_id


class DeliveredImages:
    """Images by image_id, in 40 bytes of memory for each.

    Args:
        text: the record, with a line of `format_line` for each image.

    Attributes:
        num_damaged: number of complete lines that are none.
    """

    def __init__(self, text: bytes) -> None:
        whole = text[: text.rfind(b"\n") + 1].decode(errors="replace")
        image_ids = [match[1] for match in LINE.finditer(whole) if format_line(match[1]) == f"{match[0]}\n"]
        self.num_damaged = whole.count("\n") - len(image_ids)
        ids = np.frombuffer(bytes.fromhex("".join(image_ids)), np.uint8).reshape(-1, ID_BYTES)
        begins = ids[:, :8].copy().view(">u8").ravel()
        order = np.argsort(begins, kind="stable")
        self._ids, self._begins = ids[order], begins[order]  # (N, 32) uint8, (N,) uint64

    def __len__(self) -> int:
        return len(self._begins)

    def __contains__(self, image_id: str) -> bool:
        sought = bytes.fromhex(image_id)
        at = int(np.searchsorted(self._begins, np.uint64(int.from_bytes(sought[:8], "big"))))
        while at < len(self) and self._ids[at].tobytes()[:8] == sought[:8]:
            if self._ids[at].tobytes() == sought:
                return True
            at += 1
        return False
