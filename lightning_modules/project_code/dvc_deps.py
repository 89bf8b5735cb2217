"""List a project's own modules in dvc.yaml, as dependencies of the stages whose class paths need them.

Convoy writes one line for each file, with a comment, and removes only lines with that comment. All others stay as
they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes
from lightning_modules.project_code.modules import find_project_modules

PIPELINE_FILE, PARAMS_FILE = "dvc.yaml", "params.yaml"
STAGES = ("train", "evaluate")  # their sections of params.yaml have the same names
END_COMMENT = "# class_path"
MARKED_LINE = re.compile(rf"\s{re.escape(END_COMMENT)}\s*$")
STAGE_VARIABLE = "DVC_STAGE"  # environment variable that DVC sets for the command of a stage
EXPERIMENTS_FOLDER = "/.dvc/tmp/exps/"  # in the path of a copy that DVC makes for an experiment


def update_dvc_yaml(project: Path, stages: Iterable[str] = STAGES) -> list[str]:
    """Write the project's own modules that each stage needs into dvc.yaml, and remove those of before.

    Args:
        project: folder of the project.
        stages: names of the stages; those that dvc.yaml does not have are left out.

    Returns:
        A line for each stage whose dependencies changed.

    Raises:
        UserError: a module is not Python, or dvc.yaml cannot be read or changed.
    """
    path = project / PIPELINE_FILE
    changes = []
    for stage in stages:
        text = _read_pipeline(path)
        if (deps := _find_deps(text, stage, path)) is None:
            continue
        listed, marked = _split_deps(text, deps)
        needed = [name for name in _read_files(project, stage) if not _is_below(name, listed)]
        changed = _replace_marked_lines(text, deps, marked, needed)
        if changed == text:
            continue
        _check_change(changed, stage, [*listed, *needed], path)
        write_bytes(path, changed.encode())
        changes.append(_describe_change(stage, set(marked.values()), set(needed)))
    return [change for change in changes if change]


@contextmanager
def check_stage_modules(project: Path, stage: str) -> Iterator[None]:
    """Check that DVC notes in dvc.lock the modules that a stage really runs with; without DVC, check nothing.

    Before the stage, dvc.yaml has to list them. DVC notes their content after the stage, so none may change while
    it runs.

    Args:
        project: folder of the project.
        stage: name of the stage that runs inside the `with` block.

    Raises:
        UserError: a module was missing from dvc.yaml, which now lists it, or it changed.
    """
    started_by_dvc = os.environ.get(STAGE_VARIABLE, "").rpartition(":")[2] == stage  # or sub/dvc.yaml:train
    if not started_by_dvc or int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0):
        yield
        return
    before = _read_files(project, stage)
    _check_listed(project, stage)
    yield
    after = _read_files(project, stage)
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise UserError(
            f"{stage}: {', '.join(changed)} changed while the stage ran, so its result is not of the code as "
            "it is now; run the command again"
        )


def _check_listed(project: Path, stage: str) -> None:
    """Add missing modules to dvc.yaml, and raise UserError: DVC has read dvc.yaml already.

    In a copy that DVC made for an experiment, and removes at its end, a line only says so.
    """
    if not (missing := _list_missing(project, stage)):
        return
    names = ", ".join(missing)
    if EXPERIMENTS_FOLDER in f"{project.absolute().as_posix()}/":
        print(
            f"{stage}: {PIPELINE_FILE} of this experiment does not list {names}; `dvc repro` in the project adds "
            "it",
            flush=True,
        )
        return
    update_dvc_yaml(project, [stage])
    raise UserError(
        f"{PIPELINE_FILE}: {stage} now depends on {names}, which params.yaml names or these import; "
        "run the command again"
    )


def _read_files(project: Path, stage: str) -> dict[str, bytes]:
    from imageset.params import load_section  # loads pydantic, which `convoy status` does not need

    section = load_section(project / PARAMS_FILE, stage)
    return {module.path.as_posix(): module.data for module in find_project_modules(section, project)}


def _list_missing(project: Path, stage: str) -> list[str]:
    path = project / PIPELINE_FILE
    text = _read_pipeline(path)
    deps = _find_deps(text, stage, path)
    if deps is None:
        return []
    listed, marked = _split_deps(text, deps)
    return [name for name in _read_files(project, stage) if not _is_below(name, [*listed, *marked.values()])]


def _is_below(name: str, listed: Iterable[str]) -> bool:
    return any(PurePosixPath(name).is_relative_to(PurePosixPath(folder)) for folder in listed)


def _describe_change(stage: str, before: set[str], after: set[str]) -> str:
    added, removed = ", ".join(sorted(after - before)), ", ".join(sorted(before - after))
    parts = [f"now depends on {added}"] if added else []
    parts += [f"no longer depends on {removed}"] if removed else []
    return f"{PIPELINE_FILE}: {stage} {' and '.join(parts)}" if parts else ""


# ---- the text of dvc.yaml ---------------------------------------------------------------------------------------


def _read_pipeline(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _find_deps(text: str, stage: str, path: Path) -> Any:
    """Return YAML's node of a stage's dependencies; None if there is no such stage.

    Raises:
        UserError: the file is not YAML, or the dependencies are not a list with one line each.
    """
    import yaml

    try:
        node = yaml.compose(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    for key in ("stages", stage):
        if (node := _get_value(node, key)) is None:
            return None
    deps = _get_value(node, "deps")
    if not isinstance(deps, yaml.SequenceNode) or deps.flow_style or not deps.value:
        raise UserError(f"{path}: stages.{stage}.deps: must be a list with one dependency a line")
    return deps


def _get_value(node: Any, key: str) -> Any:
    pairs = node.value if getattr(node, "id", "") == "mapping" else ()
    return next((value for name, value in pairs if name.value == key), None)


def _split_deps(text: str, deps: Any) -> tuple[list[str], dict[int, str]]:
    """Return the dependencies that Convoy did not write, and those that it wrote by the number of their line."""
    lines = text.splitlines()
    listed: list[str] = []
    marked: dict[int, str] = {}
    for item in deps.value:
        scalar = item.value[0][0] if item.id == "mapping" else item
        number = scalar.start_mark.line
        if MARKED_LINE.search(lines[number]):
            marked[number] = str(scalar.value)
        else:
            listed.append(str(scalar.value))
    return listed, marked


def _replace_marked_lines(text: str, deps: Any, marked: dict[int, str], needed: list[str]) -> str:
    """Return the text with new lines of Convoy's after the others of the list."""
    lines = text.splitlines(keepends=True)
    others = [line for item in deps.value for line in _iter_lines(item) if line not in marked]
    last = max(others, default=min(marked, default=0) - 1)
    first = lines[deps.value[0].start_mark.line]
    indent, newline = first[: first.index("-")], "\r\n" if first.endswith("\r\n") else "\n"
    new = [f"{indent}- {_quote(name)}  {END_COMMENT}{newline}" for name in sorted(needed)]
    kept = [(number, line) for number, line in enumerate(lines) if number not in marked]
    before = [line for number, line in kept if number <= last]
    if new and before and not before[-1].endswith("\n"):
        before[-1] += newline
    return "".join([*before, *new, *(line for number, line in kept if number > last)])


def _iter_lines(node: Any) -> Iterator[int]:
    """Yield the numbers of the lines that the texts of a node end on."""
    if node.id == "scalar":
        yield node.end_mark.line
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _iter_lines(part)


def _quote(name: str) -> str:
    return name if re.fullmatch(r"[\w./-]+", name) else json.dumps(name)


def _check_change(text: str, stage: str, expected: list[str], path: Path) -> None:
    """Raise UserError if the changed text would not say what it should, e.g. because a list is shared."""
    deps = _find_deps(text, stage, path)
    listed, marked = _split_deps(text, deps)
    if sorted([*listed, *marked.values()]) != sorted(expected):
        names = ", ".join(sorted(set(expected) - set(listed) - set(marked.values())))
        raise UserError(f"{path}: stages.{stage}.deps cannot be changed here; add these lines yourself: {names}")
