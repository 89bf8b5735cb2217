"""The places of tests and code, and the imports that tests may use."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.project import ROOT

PACKAGES = ("imageset", "lightning_modules", "flows")
MAX_FILES, MAX_MODULES = 12, 10  # of a folder: all .py files, and those beside __init__ and __main__
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def iter_imports(path: Path) -> Iterator[str]:
    """Each module that a file may import by its statements: `from a import b` gives a and a.b."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_test_module(name: str) -> bool:
    """Whether it is one that pytest collects, or a conftest."""
    last = name.rpartition(".")[2]
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return (last.startswith("test_") or last == "conftest") and path.is_file()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from tests.flows.test_monitor import Seen", ["tests.flows.test_monitor"]),
        ("from tests.flows import test_monitor", ["tests.flows.test_monitor"]),
        ("import tests.conftest", ["tests.conftest"]),
        ("def f():\n    from ..conftest import project", ["tests.conftest"]),
        ("from tests.helpers.project import ROOT", []),
    ],
)
def test_an_import_of_a_test_module_is_seen_however_it_is_written(tmp_path, monkeypatch, line, found):
    for name in ("tests/conftest.py", "tests/flows/test_monitor.py", "tests/helpers/project.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "tests/flows/new.py").write_text(line)
    assert [name for name in iter_imports(tmp_path / "tests/flows/new.py") if is_test_module(name)] == found


def test_nothing_in_tests_imports_a_test_module_or_a_conftest():
    found = [(str(path.relative_to(ROOT)), name) for path in TEST_FILES for name in iter_imports(path)
             if is_test_module(name)]  # fmt: skip
    assert len(TEST_FILES) > 150 and found == []


def test_the_code_imports_no_tests_and_no_benchmarks():
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    found = [(str(path.relative_to(ROOT)), name) for path in files for name in iter_imports(path)
             if name.partition(".")[0] in ("tests", "benchmarks")]  # fmt: skip
    assert len(files) > 150 and found == []


def test_every_folder_of_tests_is_a_package():  # or two files of one name could not be collected
    folders = {path.parent for path in TEST_FILES}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_of_code_holds_more_files_than_a_glance_takes_in(package):
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert len(folders) > 5
    for folder in folders:
        names = {path.stem for path in folder.glob("*.py")}
        assert len(names) <= MAX_FILES, folder
        assert len(names - {"__init__", "__main__"}) <= MAX_MODULES, folder
