"""A search for the content of pictures in files of any kind: their encoded bytes, and their decoded pixels.

Some windows of each content are looked for, at every offset. Compressed files are searched inside, too: zip (npz,
checkpoints), gzip, tar, Parquet, base64 in HTML and JSON, and PNG files, whose pixels are compared. A picture that
was made smaller has other bytes and other pixels; no search finds it.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from imageset.utils.integrity.checked_file import HEADER_BYTES, PREFIX

WINDOW_BYTES = 64
WINDOWS_PER_CONTENT = 16
MIN_DISTINCT_BYTES = 12  # in a window; fewer are no evidence, as a plain background is in many pictures
KEY_BYTES = 8  # the start of a window, by which it is looked up
CHUNK_BYTES = 8 << 20
MAX_DEPTH = 4  # a PNG in base64 in a page in a zip file
MAX_UNPACKED_BYTES = 1 << 30  # of one member of a compressed file
# In JSON, with line ends as escapes.
BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]|\\[nr]){88,}={0,2}")
LINE_ENDS = re.compile(rb"\\[nr]")
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class ByteSearch:
    """The windows that are looked for.

    Attributes:
        windows: by their first KEY_BYTES, as a number.
    """

    windows: dict[int, list[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, contents: Iterable[bytes]) -> ByteSearch:
        """Return a search for some contents, each of them bytes of a file or pixels."""
        search = cls()
        for content in contents:
            for window in choose_windows(content):
                search.windows.setdefault(_to_key(window), []).append(window)
        search.set_windows({window for some in search.windows.values() for window in some})
        return search

    def set_windows(self, windows: set[bytes]) -> None:
        """Look for these windows only."""
        self.windows = {}
        for window in sorted(windows):
            self.windows.setdefault(_to_key(window), []).append(window)
        keys = np.array(sorted(self.windows), np.uint64)
        self._keys = keys
        self._low = np.zeros(1 << 16, bool)  # a first test, by the last two bytes of a key
        self._low[(keys & np.uint64(0xFFFF)).astype(np.int64)] = True

    def can_find(self, content: bytes) -> bool:
        """Return whether a window of a content is looked for."""
        return any(window in self.windows.get(_to_key(window), ()) for window in choose_windows(content))

    def find_in_bytes(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, window) of each window in some bytes; what is packed in them is not unpacked."""
        if not self.windows:
            return
        view = np.frombuffer(data, np.uint8)
        for shift in range(KEY_BYTES):
            num = (len(view) - shift) // KEY_BYTES
            if num <= 0:
                continue
            words = view[shift : shift + num * KEY_BYTES].view("<u8")
            likely = np.flatnonzero(self._low[(words & np.uint64(0xFFFF)).astype(np.int64)])
            for position in likely[np.isin(words[likely], self._keys)].tolist():
                offset = shift + position * KEY_BYTES
                found = bytes(view[offset : offset + WINDOW_BYTES])
                yield from ((offset, window) for window in self.windows[int(words[position])]
                            if found.startswith(window))  # fmt: skip

    def find_in_file(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, window) of each window in a file, a chunk at a time; packed content is not unpacked."""
        start, rest = 0, b""
        while chunk := file.read(CHUNK_BYTES):
            data = rest + chunk
            yield from ((start + offset, window) for offset, window in self.find_in_bytes(data))
            rest = data[-(WINDOW_BYTES - 1) :]
            start += len(data) - len(rest)

    def is_in_file(self, file: BinaryIO) -> bool:
        """Return whether a file holds a window, packed or not."""
        if next(self.find_in_file(file), None) is not None:
            return True
        file.seek(0)
        return any(self._is_in_packed(part, 1) for part in iter_packed(file))

    def is_in_bytes(self, data: bytes) -> bool:
        """Return whether bytes hold a window, packed or not."""
        return self._is_in_packed(data, 0)

    def _is_in_packed(self, data: bytes, depth: int) -> bool:
        if next(self.find_in_bytes(data), None) is not None:
            return True
        return depth < MAX_DEPTH and any(
            self._is_in_packed(part, depth + 1) for part in iter_packed(io.BytesIO(data))
        )


def choose_windows(content: bytes) -> list[bytes]:
    """Choose windows of a content that tell it from others, spread over all of it."""
    first, last = _find_body(content), len(content) - WINDOW_BYTES
    if last < first:
        return [content] if len(content) >= KEY_BYTES else []
    offsets = sorted({first + round((last - first) * part / 255) for part in range(256)})
    telling = [offset for offset in offsets if _is_telling(content[offset : offset + WINDOW_BYTES])]
    step = max(1, len(telling) // WINDOWS_PER_CONTENT)
    return [content[offset : offset + WINDOW_BYTES] for offset in telling[::step]]


def _find_body(content: bytes) -> int:
    """Return where the pixels of a JPEG file begin: most files share the tables before them; 0 for others."""
    if not content.startswith(b"\xff\xd8"):
        return 0
    frame = max(content.rfind(b"\xff\xc0"), content.rfind(b"\xff\xc2"), 0)
    return max(content.find(b"\xff\xda", frame), 0)


def _is_telling(window: bytes) -> bool:
    return len(set(window)) >= MIN_DISTINCT_BYTES and len(set(window[:KEY_BYTES])) > 1


def _to_key(window: bytes) -> int:
    return int.from_bytes(window[:KEY_BYTES], "little")


# ---- what is packed in a file -----------------------------------------------------------------------


def iter_packed(file: BinaryIO) -> Iterator[bytes]:
    """Yield what a file of a known kind holds in other bytes than its own; nothing of a damaged file."""
    head = file.read(8)
    file.seek(0)
    try:
        if head.startswith(PREFIX):
            file.seek(HEADER_BYTES)
            yield file.read(MAX_UNPACKED_BYTES)
        elif head.startswith(b"PK\x03\x04"):
            yield from _iter_zip(file)
        elif head.startswith(b"\x1f\x8b"):
            yield _unpack_gzip(file)
        elif head.startswith(b"PAR1"):
            yield from _iter_parquet(file)
        elif head.startswith(PNG):
            yield _decode_png(file)
        elif head.lstrip()[:1] in (b"<", b"{", b"["):
            yield from _iter_base64(file.read())
        else:
            yield from _iter_tar(file)
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError, MemoryError,
            NotImplementedError, RuntimeError):  # fmt: skip
        return


def _iter_zip(file: BinaryIO) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.file_size <= MAX_UNPACKED_BYTES:
                yield archive.read(member)


def _unpack_gzip(file: BinaryIO) -> bytes:
    with gzip.GzipFile(fileobj=file) as unpacked:
        return unpacked.read(MAX_UNPACKED_BYTES)


def _iter_tar(file: BinaryIO) -> Iterator[bytes]:
    """Yield the members of a tar file that are packed themselves; its own bytes were searched as they are."""
    file.seek(257)
    if file.read(5) != b"ustar":
        return
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if (content := archive.extractfile(member)) is not None and member.size <= MAX_UNPACKED_BYTES:
                yield content.read()


def _iter_parquet(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(1024):
            for column in batch.columns:
                if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                    yield from (value for value in column.to_pylist() if value)
                else:
                    yield from (buffer.to_pybytes() for buffer in column.buffers() if buffer is not None)


def _decode_png(file: BinaryIO) -> bytes:
    from PIL import Image

    with Image.open(file, formats=["PNG"]) as image:
        return image.tobytes()


def _iter_base64(text: bytes) -> Iterator[bytes]:
    for match in BASE64.finditer(text):
        packed = LINE_ENDS.sub(b"", match[0]).rstrip(b"=")
        try:
            yield base64.b64decode(packed[: len(packed) - (len(packed) % 4 == 1)] + b"=" * (-len(packed) % 4))
        except binascii.Error:
            continue


# ---- files of folders -------------------------------------------------------------------------------

LEFT_OUT = (".git", ".venv", "__pycache__", "node_modules")  # names of folders


def iter_files(folder: Path, left_out: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the regular files below a folder in sorted order, without links.

    Args:
        folder: the folder.
        left_out: folders that are passed over, with all that is below them.
    """
    passed_over = {os.path.abspath(path) for path in left_out}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in LEFT_OUT and os.path.join(place, name) not in passed_over
        )
        for name in sorted(files):
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path
