"""Points at which a fault comes: before the n-th operation of one sort on files of one sort.

Counted operations hit the same place on a loaded machine, which a time does not. `data/raw/N.tar` stands for all
shards: digits, hexadecimal names and the random names of temporary files are one sort, and so are all files in
the depth of a folder, such as the code beside a logged model.
"""

from __future__ import annotations

import errno
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ALTERING = ("create", "write", "truncate", "sync", "rename", "remove", "mkdir", "link")
SIGNALS = ("kill", "kill-main", "term", "int")
# kind -> (error number, operations that fail, whether all later ones fail as well)
ERRORS = {
    "enospc": (errno.ENOSPC, ("create", "write", "truncate", "mkdir", "link"), True),
    "eio": (errno.EIO, ("write", "sync"), False),
    "erofs": (errno.EROFS, ALTERING, True),
    "emfile": (errno.EMFILE, ("open", "create"), True),
}
FLIPS = ("flip", "rot")
KINDS = (*SIGNALS, *ERRORS, *FLIPS)
RANDOM_PARTS = re.compile(r"(?<![A-Za-z])tmp[a-z0-9_]{6,10}|(?<=/)[0-9a-f]{2}(?=/)|[0-9a-f]{8,}|\d+")
MAX_DEPTH = 6


@dataclass(frozen=True)
class Point:
    """Before the `number`-th operation on a file of this sort; `torn`: half of the bytes are written first."""

    operation: str
    path: str
    number: int
    torn: bool = False

    def __str__(self) -> str:
        return f"{self.operation} {self.number} of {self.path}{', torn' if self.torn else ''}"


def name_sort(path: str) -> str:
    """Return the path with N for numbers and random names, and `*` for what lies deep or is git's."""
    parts = RANDOM_PARTS.sub("N", path).split("/")
    depth = parts.index(".git") + 2 if ".git" in parts else MAX_DEPTH
    return "/".join([*parts[:depth], *("*" for _ in parts[depth : depth + 1])])


def draw_points(
    kind: str, operations: Sequence[tuple[str, str]], number: int, seed: str, only: str = ""
) -> list[Point]:
    """Draw points of an undisturbed run: each sort of operation and file once before any comes again.

    Args:
        kind: of fault.
        operations: (operation, sort of file) of an undisturbed run, in order.
        number: of points.
        seed: the same points for the same text.
        only: a part that the path must have.
    """
    allowed = ERRORS[kind][1] if kind in ERRORS else ALTERING
    counts = Counter(one for one in operations if one[0] in allowed and only in one[1])
    chance = random.Random(seed)
    points: list[Point] = []
    while counts and len(points) < number:
        for operation, path in chance.sample(sorted(counts), len(counts)):
            torn = kind in ("kill", "kill-main") and operation == "write" and chance.random() < 0.5
            points.append(Point(operation, path, chance.randint(1, counts[operation, path]), torn))
    return points[:number]
