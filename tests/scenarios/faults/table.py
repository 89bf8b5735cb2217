"""The file of results, and the table: a row for each command, a column for each kind of fault."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from imageset.utils.atomic_write import write_text
from imageset.utils.file_lock import file_lock
from tests.helpers.project import ROOT
from tests.scenarios.faults.commands import COMMANDS
from tests.scenarios.faults.points import KINDS
from tests.scenarios.faults.tries import PROBLEMS, Try

LETTERS = {problem: problem[0] for problem in PROBLEMS}
LEGEND = (
    "cells: tries, then how many were false (f), lost something (l), showed a traceback (t), hung (h), left a "
    "process, a temporary file or a run (L), ended with another status than documented (s)"
)
LETTERS["left"] = "L"


class Results:
    """Tries by COMMAND/KIND/NUMBER, in a JSON file that is written after each of them.

    Args:
        path: of the file; what stands there is taken over.
        seed: of the points; results of another seed, or of other code, are not.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.made_by = {"seed": seed, "code": digest_code()}
        self.tries = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        found = json.loads(self.path.read_text(encoding="utf-8"))
        return dict(found["tries"]) if found["made_by"] == self.made_by else {}

    def add(self, key: str, done: Try) -> None:
        """Add a try; those that other processes have added meanwhile are kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path.with_suffix(".lock")):
            self.tries = self._read() | {key: done.to_dict()}
            content = {"made_by": self.made_by, "totals": self.count_totals(), "tries": self.tries}
            write_text(self.path, json.dumps(content, indent=1) + "\n")

    def count(self, command: str = "", kind: str = "") -> Counter[str]:
        """Count tries and problems of a command and a kind of fault; "" stands for all."""
        counts: Counter[str] = Counter()
        for key, done in self.tries.items():
            if command in ("", key.split("/")[0]) and kind in ("", key.split("/")[1]) and done["reached"]:
                counts.update({"tries", *(problem for problem, _ in done["problems"])})
        return counts

    def count_totals(self) -> dict[str, int]:
        counts = self.count()
        return {name: counts[name] for name in ("tries", *PROBLEMS)}

    def format_table(self) -> str:
        """Return the table as Markdown, with its legend and the totals."""
        commands = [name for name in COMMANDS if self.count(command=name)]
        kinds = [name for name in KINDS if self.count(kind=name)]
        rows = [["", *kinds], ["---"] * (len(kinds) + 1)]
        for command in [*commands, ""]:
            rows.append([command or "all", *(_format_cell(self.count(command, kind)) for kind in kinds)])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        totals = ", ".join(f"{number} {name}" for name, number in self.count_totals().items())
        return f"{table}\n\n{LEGEND}\n{totals}"


def digest_code() -> str:
    """Return a digest of the code that is tried, and of what tries it."""
    total = hashlib.sha256()
    for folder in ("imageset", "lightning_modules", "flows", "tests/scenarios/faults"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def _format_cell(counts: Counter[str]) -> str:
    found = [f"{counts[problem]}{LETTERS[problem]}" for problem in PROBLEMS if counts[problem]]
    return " ".join([str(counts["tries"]), *found])
