"""The sequence that a file's name may put an image into: the frames of a track, the tiles of a slide, a burst.

A name only proposes a sequence; imageset.splits.sequences decides from all names, and from the images, whether the
names of one style mean sequences.
"""

from __future__ import annotations

import re
import zlib
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imageset.utils.arrow import ROWS_AT_ONCE

_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")
# Letters and digits in turns, as in 62c6229a: a random id, no number of a frame.
_RANDOM_ID = re.compile(r"(?<![0-9A-Za-z])(?=[0-9A-Za-z]{8})[0-9]*(?:[A-Za-z]+[0-9]+){2,}[A-Za-z]*(?![0-9A-Za-z])")
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[A-Za-z]+")
# Words that say by themselves that what stands before (or in) them is one sequence.
_BURST_TIME = re.compile(r"burst[-_ ]?(\d{14,})", re.IGNORECASE)
_OWNER = re.compile(
    r"(?<![a-z])(?:video|vid|clip|track|seq|sequence|scene|slide|patient|subject|person|session|episode|series)"
    r"[-_ ]?\d+(?=\D.*\d)",
    re.IGNORECASE,
)
_FRAME = re.compile(
    r"(?<![a-z])(?:(?:key)?frame|frm|burst|tile|patch|slice|crop)s?[-_ .=#]*\d"
    r"|(?<![a-z])(?:x[-_=]?\d+[-_, ]*y|r(?:ow)?[-_=]?\d+[-_, ]*c(?:ol)?)[-_=]?\d+",
    re.IGNORECASE,
)
_FOLDER = re.compile(
    r"(?:video|vid|clip|track|seq|sequence|scene|slide|patient|subject|person|session|episode|series|burst)s?"
    r"[-_ ]*\w*\d\w*",
    re.IGNORECASE,
)
NO_FAMILY = 0  # of an image whose name proposes no sequence
_SEPARATORS = "-_ .=#,(/"


class NameParts(NamedTuple):
    """A file's name, taken apart.

    Attributes:
        sequence: what the names of its sequence have in common, for example "00000/00012".
        frame: the number of the image within it.
        style: the style of the name: names of one style mean sequences, or none does.
        is_explicit: whether a word such as "frame" says that it is a sequence.
    """

    sequence: str
    frame: int
    style: str
    is_explicit: bool


def parse_name(uri: str, label: str | None) -> NameParts | None:
    """Take the name of a file apart; None if it has no number that may be that of a frame.

    Args:
        uri: of the image.
        label: of the image: a folder of this name is its class, and no sequence.
    """
    folder, _, name = uri.rpartition("/")
    stem = _EXTENSION.sub("", name)
    depth = folder.count("/")
    leaf = folder.rpartition("/")[2]
    numbers = _NUMBER.findall(_RANDOM_ID.sub("h", stem))
    frame = int(numbers[-1][-9:]) if numbers else 0
    if match := _BURST_TIME.search(stem):
        return NameParts(f"{folder}/burst {match[1]}", frame, f"{depth} burst", True)
    for style, pattern in (("owner", _OWNER), ("frame", _FRAME)):
        if match := pattern.search(stem):
            end = match.end() if style == "owner" else match.start()
            return NameParts(_join(folder, stem[:end]), frame, f"{depth} {style}", True)
    if leaf != label and _FOLDER.fullmatch(leaf):
        return NameParts(folder, frame, f"{depth} folder", True)
    start = _find_last_number(stem)
    if start is None:
        return None
    shape = _NUMBER.sub("#", _WORD.sub("a", _RANDOM_ID.sub("*", stem)))
    return NameParts(_join(folder, stem[:start]), frame, f"{depth} {shape}", False)


def _find_last_number(stem: str) -> int | None:
    """Return where the last number begins that is no part of a random id."""
    ids = [match.span() for match in _RANDOM_ID.finditer(stem)]
    starts = [
        match.start()
        for match in _NUMBER.finditer(stem)
        if not any(low <= match.start() < high for low, high in ids)
    ]
    return starts[-1] if starts else None


def _join(folder: str, start: str) -> str:
    return f"{folder}/{start}".strip("/").rstrip(_SEPARATORS) or folder


def add_sequence_names(records: pa.Table) -> pa.Table:
    """Add the columns sequence, family and frame to records.

    sequence (uint64) is the hash of what the names of a sequence have in common, or of the source's group; family
    (uint32) that of the style of the name, NO_FAMILY without a sequence, odd if the name is explicit; frame
    (int32) is the number of the image within the sequence.

    Args:
        records: a table with the columns uri, label, group and split; the source's groups need no names.
    """
    sequences = np.zeros(len(records), np.uint64)
    families, frames = np.zeros(len(records), np.uint32), np.zeros(len(records), np.int32)
    for start in range(0, len(records), ROWS_AT_ONCE):
        batch = records.slice(start, ROWS_AT_ONCE)
        columns = (batch[name].to_pylist() for name in ("uri", "label", "group", "split"))
        for number, (uri, label, group, split) in enumerate(zip(*columns, strict=True), start):
            if group is not None:
                sequences[number] = _hash_text(f"group\0{group}")
            elif parts := parse_name(uri, label):
                # Frames in two splits of the source stay there: they are two sequences.
                sequences[number] = _hash_text(f"{split}\0{parts.sequence}")
                families[number] = zlib.crc32(parts.style.encode()) & ~1 | parts.is_explicit
                frames[number] = parts.frame
    for name, values in (("sequence", sequences), ("family", families), ("frame", frames)):
        records = records.append_column(name, pa.array(values))
    return records


def _hash_text(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
