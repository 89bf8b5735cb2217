"""The only caller of DVC and git: version the raw data, run the stages, say which commit this is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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

__all__ = [
    "add_raw", "changed_stages", "check_branch", "check_out", "commit_files", "damaged", "dataset_of_raw",
    "default_remote", "git_commit", "last_source", "only_one", "push", "push_branch", "repro", "reproduce",
]  # fmt: skip

logger = console.get_logger(__name__)

DVC = (sys.executable, "-m", "dvc")
NOBODY = "0" * 40  # to git: a branch that is not there yet
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
    _dvc(copy, "config", "--local", "cache.dir", str(_cache(project)))
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


def dataset_of_raw(project: Path) -> str | None:
    """The name of the dataset in data/raw; None where nothing was ingested, or nothing is noted about it."""
    pointer = project / f"{RAW}.dvc"
    try:
        name = (_read_yaml(pointer).get("meta") or {}).get("name")
    except (OSError, UserError):
        return None
    return name if isinstance(name, str) else None


def default_remote(project: Path) -> str | None:
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


def push(project: Path) -> None:
    """Bring what DVC tracks here to the default remote; what is there already is not sent again.

    Raises:
        UserError: it fails, for the reason DVC gives.
    """
    _dvc(project, "push")


def changed_stages(project: Path) -> dict[str, list[str]]:
    """The stages and tracked files that differ from what DVC noted of them, each with what changed.

    Raises:
        UserError: DVC cannot say.
    """
    said: list[str] = []
    statuses: list[int] = []
    for line in lines_of([*DVC, "status", "--json"], cwd=project, finished=statuses.append):
        said.append(line)
    document = next((line for line in said if line.startswith("{")), None)
    if statuses != [0] or document is None:
        raise UserError(f"dvc status failed: {' '.join(' '.join(said).split())[:300]}")
    return {stage: sorted(_changes(found)) for stage, found in json.loads(document).items()}


def _changes(found: list[Any]) -> Iterator[str]:
    """`[{"changed deps": {"data/raw": "modified"}}, "changed command"]` as words."""
    for one in found:
        if isinstance(one, str):
            yield one
            continue
        for what in one.values():
            yield from (f"{name} {state if isinstance(state, str) else 'changed'}" for name, state in what.items())


def damaged(project: Path) -> Iterator[tuple[str, str, str | None]]:
    """Files under DVC's care whose bytes are not those that were tracked: in its cache, and as they lie here.

    Yields:
        (path, the MD5 it should have, the MD5 it has; None where it is not there). A file that is not in the cache
        is no damage: its bytes lie on the remote, or here.
    """
    cache = _cache(project) / "files" / "md5"
    for path, digest in _tracked(project):
        for name, expected in _files_of(cache, digest):
            place = cache / expected[:2] / expected[2:]
            if place.exists() and (found := _md5(place)) != expected.removesuffix(".dir"):
                yield _shown(place, project), expected, found
            if name is not None and (found := _md5(project / path / name)) != expected:
                yield f"{path}/{name}" if name else path, expected, found


def _tracked(project: Path) -> Iterator[tuple[str, str]]:
    """What DVC tracks with its cache: (path, MD5)."""
    files = [*sorted(project.glob("data/*.dvc")), project / "dvc.lock"]
    documents = [_read_yaml(file) | {"at": file.parent} for file in files if file.exists()]
    for document in documents:
        stages = document.get("stages") or {"": document}
        for out in (one for stage in stages.values() for one in stage.get("outs") or []):
            if out.get("cache", True) and "md5" in out:
                yield (document["at"] / out["path"]).relative_to(project).as_posix(), str(out["md5"])


def _files_of(cache: Path, digest: str) -> Iterator[tuple[str | None, str]]:
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


def _md5(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return None


def _shown(path: Path, project: Path) -> str:
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _cache(project: Path) -> Path:
    """DVC's cache."""
    said = "".join(lines_of([*DVC, "cache", "dir"], cwd=project, finished=lambda status: None)).strip()
    return (project / said).resolve()


def check_branch(project: Path, branch: str) -> None:
    """Raise UserError if nothing may be committed to a branch behind its user's back."""
    _git(project, "check-ref-format", "--branch", branch)
    here = _git(project, "worktree", "list", "--porcelain").splitlines()
    if f"branch refs/heads/{branch}" in here:
        raise UserError(
            f"params.yaml: after_run.branch: {branch!r} is checked out, and a commit would change what git says "
            "of your files; name another branch, e.g. convoy"
        )


def commit_files(project: Path, branch: str, names: Sequence[str], message: str) -> str | None:
    """Commit files as they lie here to a branch: the tree of HEAD with these files in it, after the branch's last
    commit and after HEAD. Neither the files, the index nor HEAD are touched.

    Args:
        names: relative to the project; those that are not there are left out.

    Returns:
        The new commit; None where it would say nothing new.

    Raises:
        UserError: no git repository, no such branch name, it is checked out, or git refuses.
    """
    check_branch(project, branch)
    reference = f"refs/heads/{branch}"
    head, tip = _commit(project, "HEAD"), _commit(project, reference)
    prefix = _git(project, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(prefix="convoy-") as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(project, "read-tree", *([head] if head else ["--empty"]), changes=own)
        for name in names:
            if (project / name).is_file():
                blob = _git(project, "hash-object", "-w", "--", name)
                _git(project, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}", changes=own)
        tree = _git(project, "write-tree", changes=own)
    if tip and tree == _git(project, "rev-parse", f"{tip}^{{tree}}"):
        return None
    parents = [*([tip] if tip else []), *([head] if head and not _follows(project, tip, head) else [])]
    named = [part for parent in parents for part in ("-p", parent)]
    made = _git(project, "commit-tree", tree, *named, "-m", message, changes=_author(project))
    _git(project, "update-ref", "-m", "convoy", reference, made, tip or NOBODY)
    return made


def push_branch(project: Path, branch: str) -> str | None:
    """Push a branch where git is told to (`git config branch.NAME.remote origin`), never by force.

    Returns:
        The remote; None where the branch has none.

    Raises:
        UserError: git refuses.
    """
    remote = _git(project, "config", "--get", f"branch.{branch}.remote", may_fail=True)
    if not remote:
        return None
    there = _git(project, "config", "--get", f"branch.{branch}.merge", may_fail=True) or f"refs/heads/{branch}"
    _git(project, "push", "--quiet", remote, f"refs/heads/{branch}:{there}", changes={"GIT_TERMINAL_PROMPT": "0"})
    return remote


def _commit(project: Path, name: str) -> str | None:
    """The commit that a name stands for, if it does."""
    try:
        return _git(project, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except UserError:
        _git(project, "rev-parse", "--git-dir")  # raises where there is no repository at all
        return None


def _follows(project: Path, tip: str | None, head: str) -> bool:
    """Whether HEAD is in the history of the branch."""
    return tip is not None and _git(project, "merge-base", tip, head, may_fail=True) == head


def _author(project: Path) -> dict[str, str]:
    """Who commits, where git has not been told."""
    if _git(project, "var", "GIT_COMMITTER_IDENT", may_fail=True):
        return {}
    return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Convoy"), ("EMAIL", "convoy@localhost"))}  # fmt: skip


def _git(folder: Path, *arguments: str, may_fail: bool = False, changes: Mapping[str, str] | None = None) -> str:
    """What git prints; nothing where it fails and may.

    Raises:
        UserError: it fails, for the reason it gives, or is not there.
    """
    env = {**os.environ, **(changes or {})}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        if may_fail:
            return ""
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
