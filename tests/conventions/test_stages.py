"""Stages: dvc.yaml lists the code that decides a stage's result, all of it and nothing else."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from imageset.stage_code import STAGE_CODE, digest_stage_code, list_stage_code
from tests.helpers.project import ROOT

# Modules that stages import by name, which no import statement shows.
ENTRY_POINTS = {
    "normalize": ["imageset.normalize.stage", "imageset.normalize.tasks", "imageset.executors.worker"],
    "train": ["lightning_modules.training.stage", "lightning_modules.networks.convnet",
              "lightning_modules.networks.speednet", "lightning_modules.networks.timm_nets"],
    "evaluate": ["lightning_modules.evaluation.stage"],
    "explain": ["lightning_modules.explain.stage"],
}  # fmt: skip
# Modules that a stage imports and that do not change its result, each with the reason.
WITHOUT_EFFECT = {
    "imageset/distribution.py": "names the version and what to install; another version does not start the stage",
    "imageset/exceptions.py": "an error ends the stage; its text is in no output",
    "imageset/system_errors.py": "likewise",
    "imageset/rejections.py": "imported by executors and pages for its exception class",
    "imageset/executors/*.py": "where work runs; the result is the same by their own tests",
    "imageset/raw/damage.py": "refuses damaged files; what is whole gives the same result",
    "imageset/utils/integrity/*.py": "refuses damaged files; what is whole gives the same result",
    "imageset/utils/file_lock.py": "waits for other processes; the result is the same",
    "imageset/utils/memory.py": "gives memory back to the system",
    "imageset/utils/progress.py": "what is shown while a stage runs",
    "imageset/utils/text.py": "the words of messages, and an apostrophe before cells that are formulas",
    "imageset/utils/url_credentials.py": "masks addresses in messages",
    "imageset/stage_code.py": "names the code itself",
    "imageset/termination.py": "when a stage ends by a signal, without a result",
    "lightning_modules/tracking/*.py": "reports to MLflow what the stage has computed",
}


def find_file(module: str) -> Path | None:
    """Return the file of a module of ours, or None for other packages and for names that are no module."""
    place = ROOT / module.replace(".", "/")
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def iter_imported(tree: ast.AST) -> Iterator[str]:
    """Yield every module name that code imports at any level, but not what only the type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from iter_imported(node)


def find_reached(entry_points: list[str]) -> set[str]:
    """Return the files, relative to the repository, of every module of ours that can be imported from here."""
    reached: dict[str, Path] = {}
    waiting = list(entry_points)
    while waiting:
        module = waiting.pop()
        path = find_file(module)
        if module in reached or path is None or module.split(".")[0] not in ("imageset", "lightning_modules"):
            continue
        reached[module] = path
        waiting += iter_imported(ast.parse(path.read_text(encoding="utf-8")))
    files = {path for path in reached.values() if path.read_text(encoding="utf-8").strip()}
    return {path.relative_to(ROOT).as_posix() for path in files | find_templates(files)}


def find_templates(files: set[Path]) -> set[Path]:
    """Return the templates that code names, those that they name in turn, and the style sheet of all pages."""
    page = ROOT / "imageset/html/page.py"
    if page not in files:
        return set()
    texts = [node.value for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip
    folder, found = page.parent / "templates", {page.parent / "style.css"}
    waiting = [folder / text for text in texts if re.fullmatch(r"\w+\.html", text)]
    while waiting:
        path = waiting.pop()
        if path.is_file() and path not in found:
            found.add(path)
            waiting += [folder / name for name in re.findall(r'"(\w+\.html)"', path.read_text(encoding="utf-8"))]
    return found


def read_stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_dvc_yaml_lists_the_code_of_the_table():
    listed = {
        name: sorted(path for path in stage["deps"] if not path.startswith("data/"))
        for name, stage in read_stages().items()
    }
    assert listed == {name: sorted(code) for name, code in STAGE_CODE.items()}


@pytest.mark.parametrize("stage", STAGE_CODE)
def test_every_module_that_a_stage_can_import_is_a_dependency_or_has_no_effect(stage):
    code = {path.as_posix() for path in list_stage_code(stage)}
    outside = find_reached(ENTRY_POINTS[stage]) - code
    assert [path for path in sorted(outside) if not any(fnmatch(path, name) for name in WITHOUT_EFFECT)] == []


@pytest.mark.parametrize("stage", STAGE_CODE)
def test_a_stage_depends_on_no_code_that_it_cannot_import(stage):
    code = {path.as_posix() for path in list_stage_code(stage) if (ROOT / path).read_text().strip()}
    networks = {path for path in code if path.startswith("lightning_modules/networks/")}  # imported by class path
    assert sorted(code - networks - find_reached(ENTRY_POINTS[stage])) == []


def test_every_section_that_a_stage_depends_on_is_in_params():
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert {name for stage in read_stages().values() for name in stage["params"]} <= set(params)


def test_the_digest_follows_the_names_and_the_contents_of_the_code(tmp_path, monkeypatch):
    from imageset import stage_code

    for path in list_stage_code("train"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "lightning_modules/training/__pycache__").mkdir()
    (tmp_path / "lightning_modules/training/__pycache__/cli.pyc").write_bytes(b"compiled")
    monkeypatch.setattr(stage_code, "PACKAGES_DIR", tmp_path)
    assert digest_stage_code("train") == digest_of_the_repository()
    cli = tmp_path / "lightning_modules/training/cli.py"
    cli.write_text(cli.read_text() + "\n")
    assert digest_stage_code("train") != digest_of_the_repository()


def digest_of_the_repository() -> str:
    command = "from imageset.stage_code import digest_stage_code; print(digest_stage_code('train'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_editing_the_function_that_decides_the_precision_trains_again(served, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(served.folder, folder, symlinks=True)
    dry_run = [sys.executable, "-m", "dvc", "repro", "--dry", "train"]
    before = subprocess.run(dry_run, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "Stage 'train' didn't change, skipping" in before

    cli = folder / "lightning_modules/training/cli.py"
    code = cli.read_text()
    edited = code.replace('"bf16-mixed" if', '"16-mixed" if')
    assert edited != code
    cli.write_text(edited)
    after = subprocess.run(dry_run, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "Running stage 'train'" in after
