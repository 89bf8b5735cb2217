"""The file of results, and the table: a row for each module."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from imageset.utils.atomic_write import write_text
from tests.scenarios.mutants.mutations import Mutant


def digest_tests(root: Path, tests: list[str]) -> str:
    """Return a digest of files of tests and of the fixtures that they share."""
    total = hashlib.sha256()
    files = {root / name.split("::")[0] for name in tests}
    for path in sorted({*files, *(root / "tests").rglob("conftest.py"), *(root / "tests/helpers").glob("*.py")}):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


class Results:
    """How the tests of mutants ended, in a JSON file that is written after each of them.

    A result is found again for the same module, change and tests.

    Args:
        path: of the file; what stands there is taken over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def find(self, module: str, mutant: Mutant, tests: str) -> str | None:
        """Return how a mutant ended, or None if it is not known."""
        return self.found.get(self._get_key(module, mutant, tests))

    def add(self, module: str, mutant: Mutant, tests: str, result: str) -> None:
        """Add how a mutant ended."""
        self.found[self._get_key(module, mutant, tests)] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.found, indent=0) + "\n")

    @staticmethod
    def _get_key(module: str, mutant: Mutant, tests: str) -> str:
        return f"{module} {hashlib.sha256(mutant.source.encode()).hexdigest()[:16]} {tests}"


@dataclass(frozen=True)
class Counts:
    """Mutants of a module by how they ended.

    Attributes:
        killed: noticed by a test.
        timed_out: likewise, because a test did not end.
        listed: survived, and listed with a reason.
        survived: the others, described.
        untested: of which no result is known.
    """

    killed: int
    timed_out: int
    listed: int
    survived: list[str]
    untested: int

    @property
    def share_killed(self) -> float:
        """Of the mutants that are not listed; 1 if there are none."""
        noticed = self.killed + self.timed_out
        total = noticed + len(self.survived)
        return noticed / total if total else 1.0

    @property
    def is_measured(self) -> bool:
        """Whether a result is known of any mutant."""
        return bool(self.killed or self.timed_out or self.survived)

    def __str__(self) -> str:
        share = f"{self.share_killed:.1%} killed" if self.is_measured else "not tested"
        untested = f", {self.untested} not tested" if self.is_measured and self.untested else ""
        return f"{share}, {len(self.survived)} survived, {self.listed} listed{untested}"


def format_table(counts: dict[str, Counts]) -> str:
    """Return the table as Markdown, and below it the survivors that are not listed."""
    rows = [
        ["module", "mutants", "killed", "timed out", "listed", "survived", "untested", "share killed"],
        ["---"] * 8,
    ]
    for module, count in counts.items():
        numbers = [count.killed, count.timed_out, count.listed, len(count.survived), count.untested]
        share = f"{count.share_killed:.1%}" if count.is_measured else "not tested"
        rows.append([module, *map(str, [sum(numbers), *numbers]), share])
    survivors = [f"{module}:{mutant}" for module, count in counts.items() for mutant in count.survived]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *survivors])
