"""The only caller of DVC and git: version the raw data, run the stages, say which commit this is."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import console
from flows.console import QUIET
from flows.errors import Busy, StageFailed
from flows.processes import lines_of
from flows.project import CACHE, RAW
from imageset.atomic import write_text
from imageset.errors import EXIT_STATUS, UserError
from lightning_modules.provenance import git_commit

__all__ = ["add_raw", "check_out", "git_commit", "last_source", "only_one", "repro", "reproduce"]

logger = console.get_logger(__name__)

DVC = (sys.executable, "-m", "dvc")
LOCK = CACHE / "convoy.lock"

# What DVC says to people who drive it by hand. It stays in the run's log.
ADVICE_BEGINS = ("To track the changes with git", "To enable auto staging", "Use `dvc push`")
BOOKKEEPING = re.compile(
    r"^$|^\t|^> |^(Generating|Updating) lock file|'.*' didn't change, skipping$|^Data and pipelines are up to"
    r"|^WARNING: Process .* in RWLock-file"  # left by a run that was killed; DVC has mended it
)
STAGE_LINE = re.compile(
    r"^(?:Running stage '(?P<ran>.+)':"
    r"|Stage '(?P<skipped>.+)' (?:didn't change, skipping|is cached - skipping run.*))$"
)
STAGE_ERROR = re.compile(r"^ERROR: failed to reproduce '(?P<stage>.+?)'")
STAGE_STATUS = re.compile(r"exited with (?P<status>-?\d+)\s*$")
BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")


@dataclass
class Reproduction:
    """What `dvc repro` did, stage by stage, and what it complained about."""

    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    status: int = 0

    def read(self, line: str) -> None:
        """Take in one line of DVC's output."""
        if match := STAGE_LINE.match(line):
            if match["ran"]:
                self.ran.append(match["ran"])
            else:
                self.skipped.append(match["skipped"])
        elif line.startswith(("error: ", "ERROR: ")) or BUSY.search(line):
            self.errors.append(line)


def repro(project: Path, force: str | None = None) -> Reproduction:
    """Bring every stage of dvc.yaml up to date; its output goes to the log as it comes.

    DVC and the stages are one process group, and any exception here (a cancelled flow, Ctrl-C) ends all of it.

    Args:
        project: folder with dvc.yaml.
        force: a stage that runs even if nothing changed.

    Raises:
        StageFailed: a stage failed; the message is the stage's own.
        Busy: another DVC command holds the project.
    """
    command = [*DVC, "repro", *(["-f", force] if force else [])]
    done = Reproduction()
    for line in lines_of(command, cwd=project, finished=lambda status: setattr(done, "status", status)):
        done.read(line)
        logger.info(line, extra=QUIET if _is_for_the_log(line) else None)
    if done.status:
        raise _failure(done)
    if done.skipped:
        logger.info("stages up to date, skipped: %s", ", ".join(done.skipped))
    return done


def _is_for_the_log(line: str) -> bool:
    """Not for the screen: bookkeeping, advice, and errors, which the command repeats when it ends."""
    return bool(line.startswith((*ADVICE_BEGINS, "error: ", "ERROR: ")) or BOOKKEEPING.search(line))


def _failure(done: Reproduction) -> UserError:
    text = "\n".join(done.errors)
    if BUSY.search(text):
        return Busy("another dvc command is at work in this project; wait until it ends, then run this again")
    stage = next((match["stage"] for line in done.errors if (match := STAGE_ERROR.match(line))), "dvc repro")
    exited = next((int(match["status"]) for line in done.errors if (match := STAGE_STATUS.search(line))), 1)
    own = [line.removeprefix("error: ") for line in done.errors if line.startswith("error: ")]
    if own and exited == EXIT_STATUS:
        return StageFailed(own[-1])
    if STAGE_STATUS.search(text):
        return StageFailed(f"stage {stage} ended with status {exited}; what it said stands above", status=1)
    said = [line.removeprefix("ERROR: ") for line in done.errors if line.startswith("ERROR: ")]
    return StageFailed("; ".join(said) or f"dvc repro ended with status {done.status}", status=1)


def check_out(project: Path, commit: str, patch: Path | None, folder: Path) -> Path:
    """The project as it was at a commit with a patch on top, in a new folder that shares git's objects and DVC's
    cache; returns the project's place in there. The project itself is not touched.

    Raises:
        UserError: the commit is not here, the patch does not fit, or the raw data is neither here nor on a remote.
    """
    top, prefix = _git(project, "rev-parse", "--show-toplevel"), _git(project, "rev-parse", "--show-prefix")
    _git(project, "clone", "--quiet", "--shared", "--no-checkout", top, str(folder))
    try:
        _git(folder, "checkout", "--quiet", "--detach", commit)
    except UserError:
        raise UserError(f"commit {commit} is not in this repository; `git fetch` it first") from None
    if patch is not None and patch.stat().st_size:
        _git(folder, "apply", "--whitespace=nowarn", str(patch))
    copy = folder / prefix
    own = project / ".dvc" / "config.local"  # remotes and their keys
    if own.exists():
        shutil.copy(own, copy / ".dvc" / own.name)
    cache = "".join(lines_of([*DVC, "cache", "dir"], cwd=project, finished=lambda status: None)).strip()
    _dvc(copy, "config", "--local", "cache.dir", str((project / cache).resolve()))
    _bring_raw(copy)
    return copy


def _bring_raw(copy: Path) -> None:
    pointer = f"{RAW.as_posix()}.dvc"
    if not (copy / pointer).exists():
        raise UserError(f"the run's commit has no {pointer}, so its data is not known; it cannot be verified")
    try:
        _dvc(copy, "checkout", "--quiet", pointer)
    except UserError:
        _dvc(copy, "pull", "--quiet", pointer)


def reproduce(folder: Path, changes: Mapping[str, str]) -> None:
    """Run all stages, whatever DVC knows of them already; nothing goes into its cache.

    Raises:
        StageFailed: a stage failed.
    """
    done = Reproduction()
    command = [*DVC, "repro", "--force", "--no-commit"]
    for line in lines_of(command, cwd=folder, finished=lambda status: setattr(done, "status", status), **changes):
        done.read(line)
        logger.info(line, extra=QUIET if _is_for_the_log(line) else None)
    if done.status:
        raise _failure(done)


def add_raw(project: Path, source: str, name: str) -> bool:
    """Version data/raw with DVC and note where it came from; True if the data or its source is new.

    `data/raw.dvc` then holds DVC's hash of the data and `meta: {source, name}`.

    Raises:
        UserError: DVC refuses, for the reason given.
    """
    pointer = project / f"{RAW}.dvc"
    before = pointer.read_text(encoding="utf-8") if pointer.exists() else None
    _dvc(project, "add", "--quiet", RAW.as_posix())
    document = _read_yaml(pointer)
    document["meta"] = {**(document.get("meta") or {}), "source": source, "name": name}
    text = _dump_yaml(document)
    if text != pointer.read_text(encoding="utf-8"):
        write_text(pointer, text)
    return text != before


def last_source(project: Path) -> str:
    """The source that data/raw was last ingested from.

    Raises:
        UserError: nothing was ingested yet, or nothing is noted about it.
    """
    pointer = project / f"{RAW}.dvc"
    if not pointer.exists():
        raise UserError("nothing was ingested yet; name a folder of pictures: `convoy run FOLDER`")
    source = (_read_yaml(pointer).get("meta") or {}).get("source")
    if not isinstance(source, str):
        raise UserError(f"{pointer}: does not say where the pictures came from; run `convoy run FOLDER` once")
    return source


def _git(folder: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        UserError: it fails, for the reason it gives, or is not there.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        raise UserError(f"git {arguments[0]} failed: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip()


@contextmanager
def only_one(project: Path) -> Iterator[None]:
    """Hold the project: ingest, stages and promotion of two runs must not mix. Freed when the process ends.

    Raises:
        Busy: another run holds it.
    """
    path = project / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Busy(f"another run is at work in this project (process {holder}); wait until it ends") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _dvc(project: Path, *arguments: str) -> None:
    said: list[str] = []
    statuses: list[int] = []
    for line in lines_of([*DVC, *arguments], cwd=project, finished=statuses.append):
        said.append(line)
        logger.info(line, extra=QUIET)
    if statuses == [0]:
        return
    text = " ".join(" ".join(said).split())
    if BUSY.search(text):
        raise Busy("another dvc command is at work in this project; wait until it ends, then run this again")
    raise UserError(f"dvc {arguments[0]} failed: {text.removeprefix('ERROR: ') or f'status {statuses}'}")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a DVC file; remove it and run `convoy run FOLDER` again")
    return document


def _dump_yaml(document: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
