"""One bit of one file changes: `flip` as by a program, with the file's time; `rot` as by a disk, without."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.faults.points import name_sort

# What people write, and what git and DVC check by themselves or only need while they run
NOT_OURS = (
    ".git/", ".dvc/tmp/", ".dvc/config", ".dvc/.gitignore", "params.yaml", "params.schema.json", "dvc.yaml",
    "prefect.yaml", "README.md", ".gitignore", ".dvcignore", "data/.gitignore", "predictions.review/",
)  # fmt: skip


@dataclass(frozen=True)
class Flip:
    """Bit `bit` of byte `place` of a file."""

    path: str
    place: int
    bit: int

    def __str__(self) -> str:
        return f"bit {self.bit} of byte {self.place} of {self.path}"

    def apply(self, project: Path, *, keep_time: bool) -> bytes:
        """Flip it; return the file's new content."""
        path = project / self.path
        before = path.stat()
        data = bytearray(path.read_bytes())
        data[self.place] ^= 1 << self.bit
        mode = before.st_mode
        path.chmod(mode | 0o200)  # DVC's cache is read-only
        with path.open("r+b") as file:
            file.seek(self.place)
            file.write(data[self.place : self.place + 1])
        path.chmod(mode)
        if keep_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return bytes(data)


def draw_flips(project: Path, number: int, seed: str, only: str = "") -> list[Flip]:
    """Draw flips: each sort of file once before any comes again.

    Args:
        project: in the state that the command begins in.
        number: of flips.
        seed: the same flips for the same text.
        only: a part that the path must have.
    """
    sorts: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project).as_posix()
        is_ours = path.is_file() and not path.is_symlink() and not name.startswith(NOT_OURS)
        if is_ours and only in name and (size := path.stat().st_size):
            sorts[name_sort(name)].append((name, size))
    chance = random.Random(seed)
    flips: list[Flip] = []
    while sorts and len(flips) < number:
        for sort in chance.sample(sorted(sorts), len(sorts)):
            name, size = chance.choice(sorts[sort])
            flips.append(Flip(name, chance.randrange(size), chance.randrange(8)))
    return flips[:number]
