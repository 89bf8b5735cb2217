"""Find a project's own Python modules: those that class paths of params.yaml name, and what these import.

A module is the project's own if Python finds it in the project's folder, after all that is installed. Convoy's own
packages and whatever is installed are not, although a virtual environment may lie in the project.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from imageset.exceptions import UserError

CONVOY_PACKAGES = frozenset({"convoy", "flows", "imageset", "lightning_modules"})
INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class ProjectModule:
    """A module of a project, as it was when it was read.

    Attributes:
        name: as it is imported, e.g. `nets.tiny`.
        path: of its file, relative to the project, e.g. `nets/tiny.py`.
        data: the content of the file.
    """

    name: str
    path: Path
    data: bytes

    @property
    def package(self) -> str:
        """The package that its relative imports begin from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def copy_name(self) -> str:
        """The path of a copy, relative to a folder on Python's path."""
        stem = self.name.replace(".", "/")
        return f"{stem}/__init__.py" if self.path.name == "__init__.py" else f"{stem}.py"


def make_importable(project: Path) -> None:
    """Let this process import the project's modules; whatever is installed goes first."""
    folder = str(project.absolute())
    if folder not in sys.path:
        sys.path.append(folder)


def find_project_modules(values: Any, project: Path) -> list[ProjectModule]:
    """Return the project's own modules that texts in `values` name, and those that they import, sorted by path.

    Args:
        values: e.g. a section of params.yaml: every text in it, at any depth, may be a class path.
        project: folder of the project.

    Raises:
        UserError: one of the files is not Python; the message names the line.
    """
    importlib.invalidate_caches()
    project = project.absolute()
    # without a folder above: a copy that `convoy verify` makes lies in the project itself
    search_path = [entry for entry in sys.path if not project.resolve().is_relative_to(Path(entry).resolve())]
    search_path.append(str(project))
    found: dict[str, ProjectModule] = {}
    waiting = [text for text in _iter_texts(values) if _is_class_path(text)]
    while waiting:
        for module in _iter_modules(waiting.pop(), project, search_path):
            if module.name not in found:
                found[module.name] = module
                waiting += _iter_imports(module, project)
    return sorted(found.values(), key=lambda module: module.path)


def copy_modules(modules: Iterable[ProjectModule]) -> dict[str, bytes]:
    """Return the content of modules by the paths of their copies."""
    return {module.copy_name: module.data for module in modules}


def list_imported_packages(files: Mapping[str, bytes]) -> set[str]:
    """Return the top-level names that copies import and that are neither Python's nor among the copies."""
    own = {name.partition("/")[0].removesuffix(".py") for name in files}
    names = {name for data in files.values() for name in _iter_imported(ast.parse(data), "")}
    return {name.partition(".")[0] for name in names} - own - CONVOY_PACKAGES - sys.stdlib_module_names


def hash_files(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256, in hexadecimal digits, of the names and contents of files; nothing for none."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest() if files else ""


def _is_class_path(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _iter_texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _iter_texts(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _iter_texts(value)


# ---- files ------------------------------------------------------------------------------------------------------


def _iter_modules(dotted: str, project: Path, search_path: list[str]) -> Iterator[ProjectModule]:
    """Yield the project's modules that an import of `dotted` runs: of `a.b.C` these are `a` and `a.b`."""
    parts = dotted.split(".")
    if parts[0] in CONVOY_PACKAGES or parts[0] in sys.stdlib_module_names:
        return
    spec = PathFinder.find_spec(parts[0], search_path)
    if spec is None:
        return
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    name = parts[0]
    while True:
        if file is not None and _is_own(file, project):
            yield ProjectModule(name, file.relative_to(project), file.read_bytes())
        if name == dotted:
            return
        part = parts[name.count(".") + 1]
        file, folders = _find_submodule(part, [folder for folder in folders if _is_own(folder, project)])
        if file is None and not folders:
            return
        name = f"{name}.{part}"


def _find_submodule(part: str, folders: list[Path]) -> tuple[Path | None, list[Path]]:
    """Return the file and the folders of a module, as Python finds them: a folder without a file is a package."""
    for folder in folders:
        if (package := folder / part / "__init__.py").is_file():
            return package, [package.parent]
        if (file := folder / f"{part}.py").is_file():
            return file, []
    return None, [folder / part for folder in folders if part and (folder / part).is_dir()]


def _is_own(path: Path, project: Path) -> bool:
    return path.is_relative_to(project) and not INSTALLED_FOLDERS.intersection(path.relative_to(project).parts)


# ---- imports ----------------------------------------------------------------------------------------------------


def _iter_imports(module: ProjectModule, project: Path) -> Iterator[str]:
    """Yield each name that a module imports, at any place in its code."""
    path = project / module.path
    try:
        tree = ast.parse(module.data, str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or 1}: {error.msg}; params.yaml needs this module") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; params.yaml needs this module") from None
    yield from _iter_imported(tree, module.package)


def _iter_imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from _iter_imported(ast.Module([other], []), package)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _resolve_relative(node, package)
            yield from (f"{base}.{alias.name}" for alias in node.names if base)
        yield from _iter_imported(node, package)


def _resolve_relative(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute name of the module that `from ... import` names; nothing if it is above the top."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    if node.level > len(parents) or not package:
        return ""
    base = parents[: len(parents) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)
