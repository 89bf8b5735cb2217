"""All calls of DVC: version the raw data, run the stages, push, and find what has changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser, Error
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.notifications import console
from flows.notifications.console import LOG_ONLY
from flows.orchestration.subprocesses import stream_output
from flows.project.dvc_lock import protect_dvc_lock, restore_dvc_lock
from flows.project.exceptions import ProjectBusy, StageFailed
from flows.project.paths import CLASSIFIER, RAW
from flows.project.project import Project
from flows.versioning.git_repo import run_git
from imageset.exceptions import EXIT_STATUS, UserError
from imageset.system_errors import describe_system_text
from imageset.utils.atomic_write import write_text
from imageset.utils.url_credentials import mask_url
from lightning_modules.project_code.dvc_deps import update_dvc_yaml

logger = console.get_logger(__name__)

FETCHED_PREFIX = ".fetched-"  # in data/: what is fetched from DVC for a moment
DVC_COMMAND = (sys.executable, "-P", "-m", "dvc")  # -P: a folder called dvc/ in the project is not imported

# Advice for people who call DVC themselves; it goes to the log of the run only.
ADVICE_PREFIXES = ("To track the changes with git", "To enable auto staging", "Use `dvc push`")
WARNING_PREFIX = "warning: "  # of the lines of a stage that `--quiet` shows, too
BOOKKEEPING_LINE = re.compile(
    r"^$|^\t|^> |^(Generating|Updating) lock file|'.*' didn't change, skipping$|^Data and pipelines are up to"
    r"|^WARNING: Process .* in RWLock-file"  # left by a run that was killed; DVC has removed it
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
    """The outcome of `dvc repro`.

    Attributes:
        ran: names of the stages that ran.
        skipped: names of the stages that were up to date.
        errors: lines of errors, of DVC and of the stages.
        status: exit status.
    """

    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    status: int = 0

    def parse_line(self, line: str) -> None:
        """Parse one line of DVC's output."""
        if match := STAGE_LINE.match(line):
            if match["ran"]:
                self.ran.append(match["ran"])
            else:
                self.skipped.append(match["skipped"])
        elif line.startswith(("error: ", "ERROR: ")) or BUSY_MESSAGE.search(line):
            self.errors.append(line)


def repro(project: Project, force: str | None = None) -> ReproResult:
    """Bring every stage of dvc.yaml up to date, with its output in the log line by line.

    Before that, dvc.yaml gets the project's own modules that class paths of params.yaml need.

    DVC and the stages are one process group, and any exception (a cancelled flow, Ctrl-C) stops the whole group.

    Args:
        project: folder with dvc.yaml.
        force: a stage to run even if nothing changed.

    Raises:
        UserError: a module that a class path needs is not Python, or dvc.yaml cannot be changed.
        StageFailed: a stage failed; the message is the stage's own.
        ProjectBusy: another DVC command is running in the project.
    """
    for line in update_dvc_yaml(project.folder):
        logger.info(line)
    command = [*DVC_COMMAND, "repro", *(["-f", force] if force else [])]
    result = _stream_repro(command, project.folder, {})
    if result.skipped:
        logger.info("stages up to date, skipped: %s", ", ".join(result.skipped))
    return result


def _stream_repro(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> ReproResult:
    result = ReproResult()
    if restore_dvc_lock(folder):
        logger.warning("dvc.lock was left unfinished by a process that was killed; restored as it was before that")
    with protect_dvc_lock(folder), closing(console.ChildOutput(logger)) as output:
        for line in stream_output(
            command,
            cwd=folder,
            finished=lambda status: setattr(result, "status", status),
            **{**output.variables, **variables},
        ):
            if output.show_progress(line):
                continue
            result.parse_line(line)
            log = logger.warning if line.startswith(WARNING_PREFIX) else logger.info
            log(line, extra=LOG_ONLY if _is_log_only(line) else None)
        if result.status:
            raise _build_failure(result)
    return result


def _is_log_only(line: str) -> bool:
    """Return whether a line is only for the log: bookkeeping, advice, and errors that are repeated later."""
    return bool(line.startswith((*ADVICE_PREFIXES, "error: ", "ERROR: ")) or BOOKKEEPING_LINE.search(line))


def _build_failure(result: ReproResult) -> UserError:
    text = "\n".join(result.errors)
    if BUSY_MESSAGE.search(text):
        return ProjectBusy(
            "another dvc command is running in this project; wait until it ends, then run this again"
        )
    stage = next((match["stage"] for line in result.errors if (match := STAGE_ERROR.match(line))), "dvc repro")
    exited = next((int(match["status"]) for line in result.errors if (match := STAGE_STATUS.search(line))), 1)
    stage_errors = [line.removeprefix("error: ") for line in result.errors if line.startswith("error: ")]
    if stage_errors and exited == EXIT_STATUS:
        return StageFailed(stage_errors[-1])
    if STAGE_STATUS.search(text):
        return StageFailed(f"stage {stage} ended with status {exited}; see its output above", status=1)
    if line := describe_system_text(text):
        return StageFailed(line)
    dvc_errors = [line.removeprefix("ERROR: ") for line in result.errors if line.startswith("ERROR: ")]
    return StageFailed("; ".join(dvc_errors) or f"dvc repro ended with status {result.status}", status=1)


def clone_at_commit(project: Project, commit: str, patch: Path | None, target: Path) -> Path:
    """Clone the project at a commit, with a patch applied, into a new folder; return the project's folder in it.

    The clone shares git's objects and DVC's cache. The project itself is not changed.

    Raises:
        UserError: the commit is unknown, the patch does not apply, or the raw data is neither here nor on a
            remote.
    """
    top = run_git(project.folder, "rev-parse", "--show-toplevel")
    prefix = run_git(project.folder, "rev-parse", "--show-prefix")
    run_git(project.folder, "clone", "--quiet", "--shared", "--no-checkout", top, str(target))
    try:
        run_git(target, "checkout", "--quiet", "--detach", commit)
    except UserError:
        raise UserError(f"commit {commit} is not in this repository; `git fetch` it first") from None
    if patch is not None and patch.stat().st_size:
        run_git(target, "apply", "--whitespace=nowarn", str(patch))
    copy = target / prefix
    local_config = project / ".dvc" / "config.local"  # remotes and their keys
    if local_config.exists():
        shutil.copy(local_config, copy / ".dvc" / local_config.name)
    run_dvc(copy, "config", "--local", "cache.dir", str(find_cache_dir(project)))
    _fetch_raw(copy)
    return copy


def _fetch_raw(copy: Path) -> None:
    pointer = f"{RAW.as_posix()}.dvc"
    if not (copy / pointer).exists():
        raise UserError(f"the run's commit has no {pointer}, so its data is not known; it cannot be verified")
    try:
        run_dvc(copy, "checkout", pointer)
    except UserError:
        run_dvc(copy, "pull", pointer)


def force_repro(folder: Path, variables: Mapping[str, str]) -> None:
    """Run all stages, also those that are up to date, without adding anything to DVC's cache.

    Raises:
        UserError: a module that a class path needs is not Python, or dvc.yaml cannot be changed.
        StageFailed: a stage failed.
    """
    update_dvc_yaml(folder)  # a commit from before Convoy did this lists no modules
    _stream_repro([*DVC_COMMAND, "repro", "--force", "--no-commit"], folder, variables)


def add_raw(project: Project, source: str, name: str) -> bool:
    """Version data/raw with DVC, with its source; return True if the data or the source is new.

    `data/raw.dvc` then holds DVC's hash of the data and `meta: {source, name}`.

    Raises:
        UserError: DVC fails, with its reason.
    """
    pointer = project / f"{RAW}.dvc"
    before = pointer.read_text(encoding="utf-8") if pointer.exists() else None
    run_dvc(project.folder, "add", RAW.as_posix())
    document = read_yaml(pointer)
    document["meta"] = {**(document.get("meta") or {}), "source": source, "name": name}
    text = _dump_yaml(document)
    if text != pointer.read_text(encoding="utf-8"):
        write_text(pointer, text)
    return text != before


def read_last_source(project: Project) -> str:
    """Return the source that data/raw was last ingested from.

    Raises:
        UserError: nothing was ingested yet, or data/raw.dvc names no source.
    """
    pointer = project / f"{RAW}.dvc"
    if not pointer.exists():
        raise UserError("nothing was ingested yet; name a folder of pictures: `convoy run FOLDER`")
    source = (read_yaml(pointer).get("meta") or {}).get("source")
    if not isinstance(source, str):
        raise UserError(f"{pointer}: does not say where the pictures came from; run `convoy run FOLDER` once")
    return source


def read_stage_lock(text: str, stage: str) -> dict[str, Any]:
    """Return a stage of the text of a dvc.lock; {} if it is not there, or the text is none."""
    import yaml

    try:
        return dict(yaml.safe_load(text)["stages"][stage])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}


def find_output_md5(lock: Mapping[str, Any], path: Path) -> str | None:
    """Return DVC's MD5 of an output of a stage, given the stage of a dvc.lock."""
    outs = lock.get("outs") or []
    return next((str(out["md5"]) for out in outs if out.get("path") == path.as_posix() and "md5" in out), None)


def read_lock(project: Project) -> str:
    """Return the text of dvc.lock; "" if there is none."""
    try:
        return (project / "dvc.lock").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def find_bundle_md5(project: Project, digest: str) -> str | None:
    """Return DVC's MD5 of data/models/classifier if it holds the bundle with this digest; else None."""
    from lightning_modules.bundle import MANIFEST_FILE, hash_manifest

    try:
        manifest = json.loads((project / CLASSIFIER / MANIFEST_FILE).read_text(encoding="utf-8"))
        is_here = hash_manifest(manifest) == digest
    except (OSError, ValueError, AttributeError):
        return None
    return find_output_md5(read_stage_lock(read_lock(project), "train"), CLASSIFIER) if is_here else None


def list_output_versions(project: Project, stage: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the MD5 of an output and its stage, of dvc.lock here and in every commit, the newest first.

    Commits of all branches are searched, also of remote branches, each MD5 once.
    """
    seen: set[str] = set()
    for text in iter_locks(project):
        lock = read_stage_lock(text, stage)
        md5 = find_output_md5(lock, path)
        if md5 is not None and md5 not in seen:
            seen.add(md5)
            yield md5, lock


def iter_locks(project: Project) -> Iterator[str]:
    """Yield the text of dvc.lock, here and in every commit, the newest first."""
    yield read_lock(project)
    log = run_git(project.folder, "log", "--all", "--format=%H", "--", "dvc.lock", allow_failure=True)
    for commit in log.split():
        yield run_git(project.folder, "show", f"{commit}:./dvc.lock", allow_failure=True)


@contextmanager
def fetch_output(project: Project, md5: str, within: str | None = None) -> Iterator[Path]:
    """Fetch a folder or file that DVC holds, from its cache or its remote, into a temporary place.

    Args:
        project: the project's folder.
        md5: DVC's hash of the folder or file.
        within: one file of the folder; the others are not fetched.

    Raises:
        UserError: neither holds it, or the remote cannot be reached, with DVC's reason.
    """
    _remove_fetched(project)
    place = project / "data" / f"{FETCHED_PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
    pointer = place.with_name(f"{place.name}.dvc")
    place.parent.mkdir(exist_ok=True)
    write_text(pointer, _dump_yaml({"outs": [{"md5": md5, "hash": "md5", "path": place.name}]}))
    try:
        target = pointer if within is None else place / within
        run_dvc(project.folder, "pull", str(target.relative_to(project)))
        yield place if within is None else place / within
    finally:
        _remove(place)
        _remove(pointer)


def _remove_fetched(project: Project) -> None:
    """Remove what processes that were killed left in data/."""
    for path in (project / "data").glob(f"{FETCHED_PREFIX}*"):
        pid = path.name.removeprefix(FETCHED_PREFIX).partition("-")[0]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_cached_file(project: Project, md5: str, name: str) -> bytes | None:
    """Return one file of a folder that DVC's cache holds, without calling DVC; None if it is not there."""
    cache = find_dvc_folder(project) / "cache" / "files" / "md5"
    digest = next((digest for path, digest in list_tracked_files(cache, md5) if path == name), None)
    try:
        return (cache / digest[:2] / digest[2:]).read_bytes() if digest is not None else None
    except OSError:
        return None


def find_dvc_folder(project: Project) -> Path:
    """Return the folder `.dvc` of the project, or of the repository that it lies in."""
    folder = project.folder.resolve()
    places = (place / ".dvc" for place in (folder, *folder.parents))
    return next((place for place in places if place.is_dir()), folder / ".dvc")


def read_config(project: Project) -> ConfigParser:
    """Read DVC's configuration of the project: `.dvc/config`, and `.dvc/config.local` over it.

    Raises:
        UserError: a file is not readable.
    """
    config = ConfigParser(interpolation=None, strict=False)
    for name in ("config", "config.local"):
        try:
            config.read(find_dvc_folder(project) / name)
        except Error as error:
            raise UserError(f".dvc/{name}: not readable: {' '.join(str(error).split())}") from None
    return config


def find_default_remote(project: Project) -> str | None:
    """Return DVC's default remote, or None."""
    return read_config(project).get("core", "remote", fallback=None) or None


def find_remote_url(project: Project, remote: str) -> str:
    """Return the address of a remote as DVC's configuration has it, without a password; "" if it has none."""
    return mask_url(read_config(project).get(f"'remote \"{remote}\"'", "url", fallback=""))


def push_to_remote(project: Project) -> None:
    """Push the files that DVC tracks to the default remote; files that it has already are not sent again.

    Raises:
        UserError: the push fails, with DVC's reason.
    """
    run_dvc(project.folder, "push")


def find_changed_stages(project: Project) -> dict[str, list[str]]:
    """Return the stages and tracked files that are out of date, each with its changes.

    Raises:
        UserError: `dvc status` fails.
    """
    statuses: list[int] = []
    lines = list(stream_output([*DVC_COMMAND, "status", "--json"], cwd=project.folder, finished=statuses.append))
    document = next((line for line in lines if line.startswith("{")), None)
    if statuses != [0] or document is None:
        raise UserError(f"dvc status failed: {' '.join(' '.join(lines).split())[:300]}")
    return {stage: sorted(_iter_changes(changes)) for stage, changes in json.loads(document).items()}


def _iter_changes(changes: list[Any]) -> Iterator[str]:
    """Yield `[{"changed deps": {"data/raw": "modified"}}, "changed command"]` as phrases."""
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for states in change.values():
            for name, state in states.items():
                yield f"{name} {state if isinstance(state, str) else 'changed'}"


@dataclass(frozen=True)
class DamagedFile:
    """A file whose content is not the one that DVC tracks.

    Attributes:
        path: in the project or in DVC's cache, relative to the project if it lies there.
        md5: of the content that DVC tracks.
        actual_md5: of the file; None if it is missing.
        target: the stage, or the .dvc file, of the output that it belongs to.
        is_cached: whether it lies in DVC's cache.
        has_copy: whether the cache, or for a file of the cache the project, has the content that DVC tracks.
    """

    path: str
    md5: str
    actual_md5: str | None
    target: str
    is_cached: bool
    has_copy: bool


def find_damaged_files(project: Project) -> Iterator[DamagedFile]:
    """Find files that DVC tracks whose content has changed, in its cache and in the project.

    A file that is missing only from the cache is not reported: its content is in the project or on the remote.
    """
    cache = find_cache_dir(project) / "files" / "md5"
    for path, digest, target in _list_tracked_outputs(project):
        for name, md5 in list_tracked_files(cache, digest):
            cached = cache / md5[:2] / md5[2:]
            expected = md5.removesuffix(".dir")
            in_cache = compute_md5(cached)
            in_project = expected if name is None else compute_md5(project / path / name)
            if in_cache not in (None, expected):
                place, has_copy = _to_relative(cached, project), in_project == expected
                yield DamagedFile(place, expected, in_cache, target, is_cached=True, has_copy=has_copy)
            if in_project != expected:
                place, has_copy = f"{path}/{name}" if name else path, in_cache == expected
                yield DamagedFile(place, expected, in_project, target, is_cached=False, has_copy=has_copy)


def _list_tracked_outputs(project: Project) -> Iterator[tuple[str, str, str]]:
    """Yield (path, MD5, its stage or .dvc file) of each output that DVC keeps in its cache."""
    for file in sorted(project.folder.glob("data/*.dvc")):
        target = file.relative_to(project).as_posix()
        yield from ((path, md5, target) for path, md5 in _list_outs(read_yaml(file), file.parent, project))
    lock = project / "dvc.lock"
    for name, stage in (read_yaml(lock).get("stages") or {} if lock.exists() else {}).items():
        yield from ((path, md5, str(name)) for path, md5 in _list_outs(stage, project.folder, project))


def _list_outs(stage: Mapping[str, Any], folder: Path, project: Project) -> Iterator[tuple[str, str]]:
    for out in stage.get("outs") or []:
        if out.get("cache", True) and "md5" in out:
            yield (folder / out["path"]).relative_to(project).as_posix(), str(out["md5"])


def list_tracked_files(cache: Path, digest: str) -> Iterator[tuple[str | None, str]]:
    """Yield (name, MD5) of each file of an output; the list of a folder's files is one of them, without a name."""
    if not digest.endswith(".dir"):
        yield "", digest
        return
    yield None, digest
    try:
        files = json.loads((cache / digest[:2] / digest[2:]).read_bytes())
    except (OSError, ValueError):  # damaged, which its own digest shows, or not in this cache
        return
    yield from ((str(file["relpath"]), str(file["md5"])) for file in files)


def compute_md5(path: Path) -> str | None:
    """Return the MD5 of a file, in hexadecimal digits; None if it is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return None


def _to_relative(path: Path, project: Project) -> str:
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def find_cache_dir(project: Project) -> Path:
    """Return the folder of DVC's cache, as DVC itself names it."""
    output = "".join(
        stream_output([*DVC_COMMAND, "cache", "dir"], cwd=project.folder, finished=lambda status: None)
    )
    return (project / output.strip()).resolve()


def run_dvc(folder: Path, *arguments: str) -> None:
    """Run a command of DVC in a folder; its output goes to the log.

    Without `--quiet`: that would leave out the reason of a failure, too.

    Raises:
        ProjectBusy: another DVC command is running there.
        UserError: it fails, with its reason.
    """
    lines: list[str] = []
    statuses: list[int] = []
    for line in stream_output([*DVC_COMMAND, *arguments], cwd=folder, finished=statuses.append):
        lines.append(line)
        logger.info(line, extra=LOG_ONLY)
    if statuses == [0]:
        return
    first = next((number for number, line in enumerate(lines) if line.startswith("ERROR: ")), 0)
    text = " ".join(" ".join(lines[first:]).split())
    if BUSY_MESSAGE.search(text):
        raise ProjectBusy(
            "another dvc command is running in this project; wait until it ends, then run this again"
        )
    if reason := describe_system_text(text):
        raise UserError(f"dvc {arguments[0]} failed: {reason}")
    raise UserError(f"dvc {arguments[0]} failed: {text.removeprefix('ERROR: ') or f'status {statuses[0]}'}")


def parse_pointer(text: str) -> str | None:
    """Return the MD5 of the output that the text of a .dvc file names; None if it names none."""
    import yaml

    try:
        return str(yaml.safe_load(text)["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a file of DVC's.

    Raises:
        UserError: it is not YAML, or not a mapping.
    """
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
