"""The only caller of DVC and git: version the raw data, run the stages, say which commit this is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.notifications import console
from flows.notifications.console import LOG_ONLY
from flows.orchestration.subprocesses import stream_output
from flows.project.exceptions import ProjectBusy, StageFailed
from flows.project.paths import RAW
from flows.versioning.git_repo import run_git
from imageset.exceptions import EXIT_STATUS, UserError
from imageset.utils.atomic_write import write_text

logger = console.get_logger(__name__)

DVC_COMMAND = (sys.executable, "-m", "dvc")

# What DVC says to people who drive it by hand. It stays in the run's log.
ADVICE_PREFIXES = ("To track the changes with git", "To enable auto staging", "Use `dvc push`")
BOOKKEEPING_LINE = re.compile(
    r"^$|^\t|^> |^(Generating|Updating) lock file|'.*' didn't change, skipping$|^Data and pipelines are up to"
    r"|^WARNING: Process .* in RWLock-file"  # left by a run that was killed; DVC has mended it
)
STAGE_LINE = re.compile(
    r"^(?:Running stage '(?P<ran>.+)':"
    r"|Stage '(?P<skipped>.+)' (?:didn't change, skipping|is cached - skipping run.*))$"
)
STAGE_ERROR = re.compile(r"^ERROR: failed to reproduce '(?P<stage>.+?)'")
STAGE_STATUS = re.compile(r"exited with (?P<status>-?\d+)\s*$")
BUSY_MESSAGE = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")


@dataclass
class ReproResult:
    """What `dvc repro` did, stage by stage, and what it complained about."""

    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    status: int = 0

    def parse_line(self, line: str) -> None:
        """Take in one line of DVC's output."""
        if match := STAGE_LINE.match(line):
            if match["ran"]:
                self.ran.append(match["ran"])
            else:
                self.skipped.append(match["skipped"])
        elif line.startswith(("error: ", "ERROR: ")) or BUSY_MESSAGE.search(line):
            self.errors.append(line)


def repro(project: Path, force: str | None = None) -> ReproResult:
    """Bring every stage of dvc.yaml up to date; its output goes to the log as it comes.

    DVC and the stages are one process group, and any exception here (a cancelled flow, Ctrl-C) ends all of it.

    Args:
        project: folder with dvc.yaml.
        force: a stage that runs even if nothing changed.

    Raises:
        StageFailed: a stage failed; the message is the stage's own.
        Busy: another DVC command holds the project.
    """
    command = [*DVC_COMMAND, "repro", *(["-f", force] if force else [])]
    done = ReproResult()
    for line in stream_output(command, cwd=project, finished=lambda status: setattr(done, "status", status)):
        done.parse_line(line)
        logger.info(line, extra=LOG_ONLY if _is_log_only(line) else None)
    if done.status:
        raise _build_failure(done)
    if done.skipped:
        logger.info("stages up to date, skipped: %s", ", ".join(done.skipped))
    return done


def _is_log_only(line: str) -> bool:
    """Not for the screen: bookkeeping, advice, and errors, which the command repeats when it ends."""
    return bool(line.startswith((*ADVICE_PREFIXES, "error: ", "ERROR: ")) or BOOKKEEPING_LINE.search(line))


def _build_failure(done: ReproResult) -> UserError:
    text = "\n".join(done.errors)
    if BUSY_MESSAGE.search(text):
        return ProjectBusy(
            "another dvc command is at work in this project; wait until it ends, then run this again"
        )
    stage = next((match["stage"] for line in done.errors if (match := STAGE_ERROR.match(line))), "dvc repro")
    exited = next((int(match["status"]) for line in done.errors if (match := STAGE_STATUS.search(line))), 1)
    own = [line.removeprefix("error: ") for line in done.errors if line.startswith("error: ")]
    if own and exited == EXIT_STATUS:
        return StageFailed(own[-1])
    if STAGE_STATUS.search(text):
        return StageFailed(f"stage {stage} ended with status {exited}; what it said stands above", status=1)
    said = [line.removeprefix("ERROR: ") for line in done.errors if line.startswith("ERROR: ")]
    return StageFailed("; ".join(said) or f"dvc repro ended with status {done.status}", status=1)


def clone_at_commit(project: Path, commit: str, patch: Path | None, target: Path) -> Path:
    """The project as it was at a commit with a patch on top, in a new folder that shares git's objects and DVC's
    cache; returns the project's place in there. The project itself is not touched.

    Raises:
        UserError: the commit is not here, the patch does not fit, or the raw data is neither here nor on a remote.
    """
    top, prefix = run_git(project, "rev-parse", "--show-toplevel"), run_git(project, "rev-parse", "--show-prefix")
    run_git(project, "clone", "--quiet", "--shared", "--no-checkout", top, str(target))
    try:
        run_git(target, "checkout", "--quiet", "--detach", commit)
    except UserError:
        raise UserError(f"commit {commit} is not in this repository; `git fetch` it first") from None
    if patch is not None and patch.stat().st_size:
        run_git(target, "apply", "--whitespace=nowarn", str(patch))
    copy = target / prefix
    own = project / ".dvc" / "config.local"  # remotes and their keys
    if own.exists():
        shutil.copy(own, copy / ".dvc" / own.name)
    _run_dvc(copy, "config", "--local", "cache.dir", str(_find_cache_dir(project)))
    _fetch_raw(copy)
    return copy


def _fetch_raw(copy: Path) -> None:
    pointer = f"{RAW.as_posix()}.dvc"
    if not (copy / pointer).exists():
        raise UserError(f"the run's commit has no {pointer}, so its data is not known; it cannot be verified")
    try:
        _run_dvc(copy, "checkout", "--quiet", pointer)
    except UserError:
        _run_dvc(copy, "pull", "--quiet", pointer)


def force_repro(folder: Path, variables: Mapping[str, str]) -> None:
    """Run all stages, whatever DVC knows of them already; nothing goes into its cache.

    Raises:
        StageFailed: a stage failed.
    """
    done = ReproResult()
    command = [*DVC_COMMAND, "repro", "--force", "--no-commit"]
    for line in stream_output(
        command, cwd=folder, finished=lambda status: setattr(done, "status", status), **variables
    ):
        done.parse_line(line)
        logger.info(line, extra=LOG_ONLY if _is_log_only(line) else None)
    if done.status:
        raise _build_failure(done)


def add_raw(project: Path, source: str, name: str) -> bool:
    """Version data/raw with DVC and note where it came from; True if the data or its source is new.

    `data/raw.dvc` then holds DVC's hash of the data and `meta: {source, name}`.

    Raises:
        UserError: DVC refuses, for the reason given.
    """
    pointer = project / f"{RAW}.dvc"
    before = pointer.read_text(encoding="utf-8") if pointer.exists() else None
    _run_dvc(project, "add", "--quiet", RAW.as_posix())
    document = _read_yaml(pointer)
    document["meta"] = {**(document.get("meta") or {}), "source": source, "name": name}
    text = _dump_yaml(document)
    if text != pointer.read_text(encoding="utf-8"):
        write_text(pointer, text)
    return text != before


def read_last_source(project: Path) -> str:
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


def read_raw_dataset_name(project: Path) -> str | None:
    """The name of the dataset in data/raw; None where nothing was ingested, or nothing is noted about it."""
    pointer = project / f"{RAW}.dvc"
    try:
        name = (_read_yaml(pointer).get("meta") or {}).get("name")
    except (OSError, UserError):
        return None
    return name if isinstance(name, str) else None


def find_default_remote(project: Path) -> str | None:
    """The DVC remote that a push goes to, if one is set."""
    from configparser import ConfigParser, Error

    for name in ("config.local", "config"):
        config = ConfigParser(interpolation=None, strict=False)
        try:
            config.read(project / ".dvc" / name)
        except Error as error:
            raise UserError(f".dvc/{name}: not readable: {' '.join(str(error).split())}") from None
        if found := config.get("core", "remote", fallback=None):
            return found
    return None


def push_to_remote(project: Path) -> None:
    """Bring what DVC tracks here to the default remote; what is there already is not sent again.

    Raises:
        UserError: it fails, for the reason DVC gives.
    """
    _run_dvc(project, "push")


def find_changed_stages(project: Path) -> dict[str, list[str]]:
    """The stages and tracked files that differ from what DVC noted of them, each with what changed.

    Raises:
        UserError: DVC cannot say.
    """
    said: list[str] = []
    statuses: list[int] = []
    for line in stream_output([*DVC_COMMAND, "status", "--json"], cwd=project, finished=statuses.append):
        said.append(line)
    document = next((line for line in said if line.startswith("{")), None)
    if statuses != [0] or document is None:
        raise UserError(f"dvc status failed: {' '.join(' '.join(said).split())[:300]}")
    return {stage: sorted(_iter_changes(found)) for stage, found in json.loads(document).items()}


def _iter_changes(found: list[Any]) -> Iterator[str]:
    """`[{"changed deps": {"data/raw": "modified"}}, "changed command"]` as words."""
    for one in found:
        if isinstance(one, str):
            yield one
            continue
        for what in one.values():
            yield from (f"{name} {state if isinstance(state, str) else 'changed'}" for name, state in what.items())


def find_damaged_files(project: Path) -> Iterator[tuple[str, str, str | None]]:
    """Files under DVC's care whose bytes are not those that were tracked: in its cache, and as they lie here.

    Yields:
        (path, the MD5 it should have, the MD5 it has; None where it is not there). A file that is not in the cache
        is no damage: its bytes lie on the remote, or here.
    """
    cache = _find_cache_dir(project) / "files" / "md5"
    for path, digest in _list_tracked_outputs(project):
        for name, expected in _list_tracked_files(cache, digest):
            place = cache / expected[:2] / expected[2:]
            if place.exists() and (found := _compute_md5(place)) != expected.removesuffix(".dir"):
                yield _to_relative(place, project), expected, found
            if name is not None and (found := _compute_md5(project / path / name)) != expected:
                yield f"{path}/{name}" if name else path, expected, found


def _list_tracked_outputs(project: Path) -> Iterator[tuple[str, str]]:
    """What DVC tracks with its cache: (path, MD5)."""
    files = [*sorted(project.glob("data/*.dvc")), project / "dvc.lock"]
    documents = [_read_yaml(file) | {"at": file.parent} for file in files if file.exists()]
    for document in documents:
        stages = document.get("stages") or {"": document}
        for out in (one for stage in stages.values() for one in stage.get("outs") or []):
            if out.get("cache", True) and "md5" in out:
                yield (document["at"] / out["path"]).relative_to(project).as_posix(), str(out["md5"])


def _list_tracked_files(cache: Path, digest: str) -> Iterator[tuple[str | None, str]]:
    """The files of what DVC tracks under a digest: (name within it, MD5); the list of a folder is one, without a
    name."""
    if not digest.endswith(".dir"):
        yield "", digest
        return
    yield None, digest
    try:
        listed = json.loads((cache / digest[:2] / digest[2:]).read_bytes())
    except (OSError, ValueError):  # damaged, which shows, or never here
        return
    yield from ((str(one["relpath"]), str(one["md5"])) for one in listed)


def _compute_md5(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return None


def _to_relative(path: Path, project: Path) -> str:
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _find_cache_dir(project: Path) -> Path:
    """DVC's cache."""
    said = "".join(
        stream_output([*DVC_COMMAND, "cache", "dir"], cwd=project, finished=lambda status: None)
    ).strip()
    return (project / said).resolve()


def _run_dvc(project: Path, *arguments: str) -> None:
    said: list[str] = []
    statuses: list[int] = []
    for line in stream_output([*DVC_COMMAND, *arguments], cwd=project, finished=statuses.append):
        said.append(line)
        logger.info(line, extra=LOG_ONLY)
    if statuses == [0]:
        return
    text = " ".join(" ".join(said).split())
    if BUSY_MESSAGE.search(text):
        raise ProjectBusy(
            "another dvc command is at work in this project; wait until it ends, then run this again"
        )
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
