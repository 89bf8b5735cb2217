"""What went wrong beside a run and is not mended yet: noted durably, so that `convoy status` names it.

.cache/troubles/NAME.json   one a kind of trouble; it goes when the same thing next goes well
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows import ledger
from flows.project import CACHE
from imageset.atomic import write_text
from imageset.errors import UserError

FOLDER = CACHE / "troubles"


class Trouble(NamedTuple):
    """Since when, how often in a row, what is wrong, and how to mend it."""

    name: str
    since: str  # ISO 8601
    times: int
    said: str


def note(project: Path, name: str, said: str) -> None:
    """Something went wrong (again)."""
    before = _read(_place(project, name))
    since, times = (before.since, before.times + 1) if before else (ledger.now(), 1)
    path = _place(project, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"since": since, "times": times, "said": said}, ensure_ascii=False) + "\n")


def mended(project: Path, name: str) -> None:
    """It went well, or is not wanted any more."""
    _place(project, name).unlink(missing_ok=True)


def all_of(project: Path) -> list[Trouble]:
    """What is not mended, the oldest first."""
    found = [one for path in (project / FOLDER).glob("*.json") if (one := _read(path))]
    return sorted(found, key=lambda one: one.since)


@contextmanager
def until_it_goes_well(project: Path, name: str, how: str) -> Iterator[None]:
    """Note a UserError of this block and raise it again; the block's success is the end of the trouble.

    Args:
        how: how to mend it.
    """
    try:
        yield
    except UserError as error:
        note(project, name, f"{str(error).rstrip('.')}; {how}")
        raise
    mended(project, name)


def _place(project: Path, name: str) -> Path:
    return project / FOLDER / f"{name}.json"


def _read(path: Path) -> Trouble | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Trouble(path.stem, str(found["since"]), int(found["times"]), str(found["said"]))
    except (OSError, ValueError, KeyError, TypeError):  # gone since, or damaged: it is no owner of anything
        return None
