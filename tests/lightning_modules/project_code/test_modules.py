"""Which files of a project class paths need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imageset.exceptions import UserError
from lightning_modules.project_code.modules import copy_modules, find_project_modules, hash_files, make_importable
from tests.helpers.project import ROOT

FILES = {
    "mynet.py": "import torch\nimport helper\nclass Tiny: ...\n",
    "helper.py": "",
    "unrelated.py": "",
    "nets/__init__.py": "from . import shared\n",
    "nets/shared.py": "",
    "nets/deep/__init__.py": "",
    "nets/deep/one.py": "from ..shared import x\nfrom ...above import y\nfrom .two import *\n",
    "nets/deep/two.py": "def forward():\n    import lazy\n",
    "lazy.py": "try:\n    import fast\nexcept ImportError:\n    import slow\n",
    "slow.py": "import mynet.not_there\n",
    "space/without/init/net.py": "import nets.deep.two as two\n",
    "typed.py": (
        "import typing\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import unrelated\nelse:\n    import helper\n"
        "if typing.TYPE_CHECKING:\n    import slow\n"
    ),
    "timm.py": "",  # an installed package has this name
    "json.py": "",  # a module of Python has this name
    "imageset/net.py": "",  # a package of Convoy has this name
    "flows/__init__.py": "",
    ".venv/lib/python3/site-packages/installed.py": "",
    "src/own/net.py": "from own import part\n",
    "src/own/part.py": "",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def find(values, folder: Path) -> list[str]:
    return [module.path.as_posix() for module in find_project_modules(values, folder)]


DEEP = ["lazy.py", "nets/__init__.py", "nets/deep/__init__.py", "nets/deep/one.py", "nets/deep/two.py",
        "nets/shared.py", "slow.py", "mynet.py", "helper.py"]  # fmt: skip


@pytest.mark.parametrize(
    ("class_path", "expected"),
    [
        ("mynet.Tiny", ["helper.py", "mynet.py"]),
        ("mynet.Outer.Inner", ["helper.py", "mynet.py"]),
        ("nets.deep.one.Net", sorted(DEEP)),
        ("space.without.init.net.Net", sorted({*DEEP, "space/without/init/net.py"} - {"nets/deep/one.py"})),
        ("typed.Net", ["helper.py", "typed.py"]),
        ("timm.Net", []), ("json.Net", []), ("imageset.net.Net", []), ("flows.Net", []),
        ("not_there.Net", []), ("mynet", []), ("data/normalized", []), ("0.5", []), ("..", []),
    ],
)  # fmt: skip
def test_a_class_path_needs_its_module_and_what_this_imports_from_the_project(folder, class_path, expected):
    assert find({"model": {"network": class_path}}, folder) == expected


def test_class_paths_are_found_at_any_depth(folder):
    section = {"trainer": {"callbacks": [{"class_path": "helper.Callback"}, "unrelated.Callback"]}, "seed": 0,
               "model": {"optimizer": {"class_path": "slow.Adam", "init_args": {"lr": 0.1}}}}  # fmt: skip
    assert {"helper.py", "unrelated.py", "slow.py"} <= set(find(section, folder))


def test_what_is_installed_in_an_environment_inside_the_project_is_not_its_own(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder / ".venv/lib/python3/site-packages")])
    assert find("installed.Net", folder) == []


def test_a_folder_of_the_project_on_pythons_path_is_searched_too(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder / "src")])
    modules = find_project_modules("own.net.Net", folder)
    assert [module.path.as_posix() for module in modules] == ["src/own/net.py", "src/own/part.py"]
    assert sorted(copy_modules(modules)) == ["own/net.py", "own/part.py"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(b"x = 1\ndef broken(:\n", r"helper.py:2: invalid syntax"), (b"\0", "null bytes"), (b"'\xff'", "utf-8")],
)
def test_a_module_that_is_not_python_is_named_with_its_line(folder, code, reason):
    (folder / "helper.py").write_bytes(code)
    with pytest.raises(UserError, match=reason) as caught:
        find("mynet.Tiny", folder)
    assert "\n" not in str(caught.value)


def test_the_digest_follows_names_and_contents(folder):
    def digest() -> str:
        return hash_files(copy_modules(find_project_modules("mynet.Tiny", folder)))

    before = digest()
    (folder / "unrelated.py").write_text("x = 2\n")
    assert digest() == before
    (folder / "helper.py").write_text("x = 2\n")
    assert digest() != before
    assert hash_files({}) == ""


def test_the_projects_folder_is_last_on_pythons_path(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    make_importable(folder)
    make_importable(folder)
    assert sys.path[-1] == str(folder) and sys.path.count(str(folder)) == 1


def test_a_copy_of_a_project_inside_the_project_has_modules_of_its_own(folder, monkeypatch):
    copy = folder / ".cache" / "copy"
    copy.mkdir(parents=True)
    (copy / "mynet.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    assert find("mynet.Tiny", copy) == ["mynet.py"]


def test_in_convoys_own_repository_its_packages_are_not_the_projects():
    assert find("lightning_modules.networks.LeNet5", ROOT) == []
