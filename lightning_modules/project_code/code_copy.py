"""Import the copies of a project's own modules that a bundle holds, under names of their own.

Two bundles may hold different versions of a module, and the project's own file may have changed since. So the
copies in a bundle are modules of a package that is named after their digest. A copy that imports another by its
usual name gets the copy; everything else they import as usual. The copies stay in memory: a bundle that MLflow has
sent lies in a folder that is removed after loading.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_loader
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from lightning_modules.project_code.modules import hash_files


class CodeCopy(MetaPathFinder, ExecutionLoader):
    """A finder and loader of copied modules.

    Args:
        files: the content of each file by its path relative to a folder on Python's path, e.g. `nets/tiny.py`.

    Attributes:
        package: name of the package that holds the copies; another for other copies.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.package = f"_convoy_code_{hash_files(files)[:16]}"
        self._top_level = {PurePosixPath(name).parts[0].removesuffix(".py") for name in files}

    def holds(self, name: str) -> bool:
        """Return whether a module of that name, or its parent package, is among the copies."""
        return name.partition(".")[0] in self._top_level

    def import_module(self, name: str) -> ModuleType:
        """Import a copy.

        Raises:
            ImportError: there is no such copy.
        """
        if not any(isinstance(finder, CodeCopy) and finder.package == self.package for finder in sys.meta_path):
            sys.meta_path.append(self)
        return importlib.import_module(f"{self.package}.{name}")

    # ---- Python's interface of a finder and a loader ----------------------------------------------------

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a copy; None for every other module."""
        if fullname.partition(".")[0] != self.package:
            return None
        if self._get_file(fullname) is None and not self.is_package(fullname):
            return None
        return spec_from_loader(fullname, self, is_package=self.is_package(fullname))

    def get_filename(self, fullname: str) -> str:
        """Return the name of a copy's file in tracebacks."""
        return f"<{self.package}>/{self._get_file(fullname) or ''}"

    def is_package(self, fullname: str) -> bool:
        """Return whether a copy is a package: a folder, with or without `__init__.py`."""
        stem = self._get_stem(fullname)
        return not stem or any(name.startswith(f"{stem}/") for name in self.files)

    def get_source(self, fullname: str) -> str:
        """Return the code of a copy; empty for a package without `__init__.py`."""
        name = self._get_file(fullname)
        return decode_source(self.files[name]) if name else ""

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of a copy, whose imports reach the other copies."""
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)

    def _import(
        self,
        name: str,
        variables: Mapping[str, Any] | None = None,
        local_variables: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """Import as the statement does, see `builtins.__import__`; a name of a copy stands for the copy."""
        if level or not self.holds(name):
            return builtins.__import__(name, variables, local_variables, fromlist, level)
        module = builtins.__import__(f"{self.package}.{name}", variables, local_variables, fromlist, 0)
        return module if fromlist else sys.modules[f"{self.package}.{name.partition('.')[0]}"]

    def _get_stem(self, fullname: str) -> str:
        return fullname.partition(".")[2].replace(".", "/")

    def _get_file(self, fullname: str) -> str | None:
        stem = self._get_stem(fullname)
        return next((name for name in (f"{stem}/__init__.py", f"{stem}.py") if name in self.files), None)
