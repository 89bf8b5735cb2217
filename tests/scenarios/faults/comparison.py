"""Comparison of the contents of a project with those of undisturbed projects.

Two undisturbed runs say how each thing is compared: byte for byte where both have the same bytes; else without run
ids, times and decimals (see MASKED), where they are the same without; else only whether it is there. A second run
of the same command may leave another result, which counts as right, too: a disturbed run may have done its work.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.scenarios.faults.points import name_sort

MASKED = re.compile(
    r"\d{4}-\d\d-\d\d[T ][0-9:.]+(\+00:00|Z)?|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{12,}|\d+\.\d+(e-?\d+)?"
    r"|\"searched\": \d+"  # files that `convoy forget` read, the leftovers of a fault among them
)
SKIPPED = (".git", ".cache", ".dvc", "mlartifacts", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm")
TEMPORARY = re.compile(r"\.(partial|earlier|tmp)(/|$)|(^|/)\.?tmp[^/]*|-journal$")
FALSE, LOST = "false", "lost"

Contents = dict[str, list[str]]  # name -> [value, value without what may differ]


@dataclass(frozen=True)
class Expected:
    """The right contents, after one and after two runs, and how far they are compared.

    Attributes:
        depth: name -> 0: as it is, 1: masked, 2: only that it is there.
        temporary: sorts of temporary files that undisturbed runs leave.
    """

    right: list[Contents]
    depth: dict[str, int]
    temporary: list[str]

    @classmethod
    def learn(cls, once: Contents, twice: Contents, other: Contents, temporary: set[str]) -> Expected:
        depth = {}
        for name in once.keys() & other.keys():
            same = [one == two for one, two in zip(once[name], other[name], strict=True)]
            depth[name] = same.index(True) if True in same else 2
        return cls([once, twice], depth, sorted(temporary))

    def find_differences(self, found: Contents) -> list[tuple[str, str]]:
        """Return (FALSE or LOST, a line) for each difference from the nearer of the two right contents."""
        return min((list(self._compare(right, found)) for right in self.right), key=len)

    def _compare(self, right: Contents, found: Contents) -> Iterator[tuple[str, str]]:
        for name in sorted(right.keys() & self.depth.keys()):
            depth = self.depth[name]
            if name not in found:
                yield LOST, f"{name} is missing"
            elif depth < 2 and found[name][depth] not in [one[name][depth] for one in self.right if name in one]:
                yield FALSE, f"{name} differs{_describe(right[name][depth], found[name][depth])}"
        due = Counter(name_sort(name) for name in right if name not in self.depth)
        there = Counter(name_sort(name) for name in found if name not in self.depth)
        yield from ((LOST, f"{number} of {name} missing") for name, number in (due - there).items())
        yield from ((FALSE, f"{number} of {name} too many") for name, number in (there - due).items())


def read_contents(project: Path, report: str | None = None) -> Contents:
    """Read all that a project keeps as a result, and the report that a command printed."""
    found: Contents = {}
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project).as_posix()
        if path.is_file() and name.split("/")[0] not in SKIPPED and not TEMPORARY.search(name):
            found |= _read_lock(path) if name == "dvc.lock" else {name: _read_file(path)}
    if (project / "mlflow.db").exists():
        found |= _read_mlflow(project / "mlflow.db")
    if report is not None:
        text = report[report.find("{") : report.rfind("}") + 1]
        found["the report"] = [text, MASKED.sub("*", text)]
    return found


def find_temporary(slot: Path) -> set[str]:
    """Sorts of temporary files of Convoy, DVC and others."""
    names = (path.relative_to(slot).as_posix() for path in slot.rglob("*"))
    # An unfinished copy in DVC's cache is DVC's own; `convoy gc` removes it.
    skipped = ("project/.git/", "project/.dvc/tmp", "project/.dvc/cache/")
    kept = (name for name in names if not name.startswith(skipped) and name != "tmp")
    return {name_sort(name) for name in kept if TEMPORARY.search(name) or name.startswith("tmp/")}


def _read_file(path: Path) -> list[str]:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return [digest, digest]
    return [text, MASKED.sub("*", text)] if len(text) < 4000 else [digest, _hash(MASKED.sub("*", text))]


def _read_lock(path: Path) -> Contents:
    """Return an entry for each digest in dvc.lock: some outputs hold the id of a run, those of the data do not."""
    try:
        entries: Contents = {}
        for stage, content in yaml.safe_load(path.read_text())["stages"].items():
            for item in (*content.get("deps", []), *content["outs"]):
                entries[f"dvc.lock: {stage}: {item['path']}"] = [item["md5"], ""]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        return {"dvc.lock": ["damaged", "damaged"]}
    return entries


def _read_mlflow(path: Path) -> Contents:
    """Runs that ended, their curves, versions and aliases."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return dict(_read_tables(database))
    except sqlite3.Error as error:
        return {"MLflow": [str(error), "damaged"]}


def count_running(project: Path) -> int:
    """Count the runs that MLflow believes to be running."""
    try:
        with closing(sqlite3.connect(f"file:{project / 'mlflow.db'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0])
    except sqlite3.Error:
        return 0


def _read_tables(database: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    finished = dict(database.execute("SELECT run_uuid, name FROM runs WHERE status = 'FINISHED'"))
    yield "MLflow: finished runs", [str(len(finished))] * 2
    curves: defaultdict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for run, key, step, value in database.execute("SELECT run_uuid, key, step, value FROM metrics"):
        if run in finished:
            curves[key].append((step, value))
    for key, points in curves.items():
        yield f"MLflow: metric {key}", [_dump(sorted(points)), _dump(sorted(step for step, _ in points))]
    tables = {"model_versions": "name, version", "registered_model_aliases": "name, alias, version"}
    for table, columns in tables.items():
        rows = _dump(sorted(database.execute(f"SELECT {columns} FROM {table}")))
        yield f"MLflow: {table}", [rows, rows]
    tags = _dump(sorted(database.execute("SELECT name, version, key, value FROM model_version_tags")))
    yield "MLflow: tags of versions", [tags, MASKED.sub("*", tags)]


def _describe(right: str, found: str) -> str:
    """Return the difference of two texts for a message, or its first line."""
    if len(right) + len(found) < 300:
        return f": {found!r}, not {right!r}"
    for one, other in zip(right.splitlines(), found.splitlines(), strict=False):
        if one != other:
            return f": {other[:150]!r}, not {one[:150]!r}"
    return ""


def _dump(value: Any) -> str:
    return json.dumps(value, default=str)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
