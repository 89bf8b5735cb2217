"""Copies of modules that are imported beside others of the same name."""

from __future__ import annotations

import inspect
import pickle
import sys

import pytest

from lightning_modules.project_code.code_copy import CodeCopy

NET = b"""import shapes.round as round_shapes
from shapes import flat
import json

class Net:
    size = round_shapes.SIZE + flat.SIZE

    def later(self):
        from helper import ANSWER
        import shapes.round
        return ANSWER, shapes.round.SIZE
"""


def make_copy(answer: int) -> CodeCopy:
    return CodeCopy({
        "net.py": NET, "shapes/round.py": b"from .flat import SIZE", "shapes/flat.py": b"SIZE = 7",
        "helper.py": f"ANSWER = {answer}".encode(),
    })  # fmt: skip


def test_two_copies_of_a_module_live_beside_each_other_and_beside_the_file_they_came_from(tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("raise RuntimeError('edited since')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    first, second = (make_copy(answer).import_module("net").Net for answer in (1, 2))
    assert (first.size, first().later(), second().later()) == (14, (1, 7), (2, 7))
    assert not {"net", "helper", "shapes"} & set(sys.modules)


def test_a_copy_is_an_ordinary_module():
    module = make_copy(3).import_module("net")
    assert make_copy(3).import_module("net") is module
    assert inspect.getsource(module.Net) in NET.decode()
    assert pickle.loads(pickle.dumps(module.Net())).later() == (3, 7)
    assert module.json is sys.modules["json"]


def test_what_is_not_among_the_copies_is_not_found():
    copy = make_copy(4)
    assert copy.holds("shapes.round") and not copy.holds("torch") and not copy.holds("shape")
    with pytest.raises(ModuleNotFoundError):
        copy.import_module("shapes.square")
