"""The sequence that a file's name may put an image into: the frames of a track, the tiles of a slide, a burst.

A name only proposes a sequence; imageset.splits.sequences decides from all names, and from the images, whether the
names of one style mean sequences.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imageset.utils.arrow import ROWS_AT_ONCE, to_strings

_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")
# Letters and digits in turns, as in 62c6229a: a random id, no number of a frame.
_RANDOM_ID = re.compile(r"(?<![0-9A-Za-z])(?=[0-9A-Za-z]{8})[0-9]*(?:[A-Za-z]+[0-9]+){2,}[A-Za-z]*(?![0-9A-Za-z])")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[A-Za-z]+")
# Words that say by themselves that what stands before (or in) them is one sequence; first a quick look for any.
_ANY_WORD = re.compile(
    r"burst|vid|clip|track|seq|scene|slide|patient|subject|person|session|episode|series|frame|frm|tile|patch"
    r"|slice|crop|[xr][-_=]?\d|row",
    re.IGNORECASE,
)
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
_NAME_COLUMNS = ("uri", "label", "group", "split")
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
    leaf = folder[folder.rfind("/") + 1 :]
    is_clip = leaf != label and _FOLDER.fullmatch(leaf) is not None
    if not is_clip and _UUID.fullmatch(stem):
        return None
    numbers = [match.span() for match in _NUMBER.finditer(stem)]
    has_words = _WORD.search(stem) is not None
    ids = [match.span() for match in _RANDOM_ID.finditer(stem)] if has_words else []
    if ids:
        numbers = [span for span in numbers if not any(low <= span[0] < high for low, high in ids)]
    start, end = numbers[-1] if numbers else (0, 0)
    frame = int(stem[start:end][-9:] or 0)
    if has_words and _ANY_WORD.search(stem) and (found := _find_words(stem)):
        style, sequence = found
        return NameParts(_join(folder, sequence), frame, f"{depth} {style}", True)
    if is_clip:
        return NameParts(folder, frame, f"{depth} folder", True)
    if not numbers:
        return None
    shape = _WORD.sub("a", _RANDOM_ID.sub("*", stem)) if has_words else stem
    return NameParts(_join(folder, stem[:start]), frame, f"{depth} {_NUMBER.sub('#', shape)}", False)


def _find_words(stem: str) -> tuple[str, str] | None:
    """Return (the style, the part that names the sequence) if a word says that there is a sequence."""
    if match := _BURST_TIME.search(stem):
        return "burst", f"burst {match[1]}"
    if match := _OWNER.search(stem):
        return "owner", stem[: match.end()]
    if match := _FRAME.search(stem):
        return "frame", stem[: match.start()]
    return None


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
        hash_text, hash_style = lru_cache(_hash_text), lru_cache(_hash_style)
        columns = (to_strings(records[name].slice(start, ROWS_AT_ONCE)) for name in _NAME_COLUMNS)
        for number, (uri, label, group, split) in enumerate(zip(*columns, strict=True), start):
            if group is not None:
                sequences[number] = _hash_text(f"group\0{group}")
            elif parts := parse_name(str(uri), label):
                # Frames in two splits of the source stay there: they are two sequences.
                sequences[number] = hash_text(f"{split}\0{parts.sequence}")
                families[number] = hash_style(parts.style) & ~1 | parts.is_explicit
                frames[number] = parts.frame
    for name, values in (("sequence", sequences), ("family", families), ("frame", frames)):
        records = records.append_column(name, pa.array(values))
    return records


def _hash_style(style: str) -> int:
    return zlib.crc32(style.encode()) | 2  # never NO_FAMILY


def _hash_text(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
