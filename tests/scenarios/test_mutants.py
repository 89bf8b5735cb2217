"""`make mutants` in a reduced form: its changes, its lists, and one module of a few lines."""

import gc
import json
import re
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
from cosmic_ray.mutating import mutate_code

from tests.helpers.project import ROOT
from tests.scenarios.mutants import __main__ as command
from tests.scenarios.mutants.mutations import EXCLUDED, join_lines, list_mutants
from tests.scenarios.mutants.operators import OPERATORS, OWN

TARGETS, EXCLUDED_KINDS = command.read_config(ROOT)


@pytest.mark.parametrize("operator", OWN)
def test_each_operator_of_our_own_changes_its_examples(operator):
    for example in operator.examples():
        assert mutate_code(example.pre_mutation_code, operator(), example.occurrence) == example.post_mutation_code


def change(source: str, *excluded: str) -> set[str]:
    return {mutant.after for mutant in list_mutants(source, list(excluded))}


def test_known_faults_are_among_the_mutants():
    assert "gain = abs(a - b)" not in change("gain = abs(a - b)") and "gain = (a - b)" in change(
        "gain = abs(a - b)"
    )
    assert "pass" in change("os.fsync(file)\n")
    assert "x = any(gates)" in change("x = all(gates)")
    assert "ALIASES = (CHAMPION, PREVIOUS)" in change("ALIASES = (PREVIOUS, CHAMPION)")
    assert "number = digest[: 5]" in change("number = digest[:4]")
    assert 'digest(f"{group}")' in change('digest(f"{seed}{group}")')
    assert {"x = low >= gain", "x = low <= gain"} <= change("x = low > gain")


def test_order_that_means_nothing_is_left_alone():
    for source in ("x = a in (b, c)", "a, b = f", "isinstance(a, (b, c))", "x = min(a, b)"):
        assert not any("c, b" in after or "b, a" in after or "(a, a)" in after for after in change(source))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("annotations", "def f(a: int | None) -> int | None: ..."),
        ("decorators", "@cached(1)\ndef f(): ..."),
        ("log calls", "logger.info(1)\n"),
        ("error messages", "def f():\n    raise A(1)"),
        ("strict", "x = zip(a, strict=True)"),
        ("type checking", "if TYPE_CHECKING:\n    a = 1"),
        ("pragma lines", "a = 1  # pragma: no cover"),
    ],
)
def test_code_whose_mutants_are_worth_nothing_is_left_alone(kind, source):
    assert len(change(source, kind)) < len(change(source))
    assert kind in EXCLUDED and kind in EXCLUDED_KINDS


def test_only_the_named_parts_of_a_module_are_changed():
    source = "A: int = 1\nB = 2\n\ndef f():\n    return 3\n\ndef g():\n    return 4\n"
    assert {mutant.line for mutant in list_mutants(source, [], ["A", "g"])} == {1, 8}


def test_every_module_and_every_test_that_is_named_is_there_and_stands_once():
    config = tomllib.loads((command.FOLDER / "modules.toml").read_text())
    assert all(config["excluded"].values()) and set(config["excluded"]) == set(EXCLUDED)
    names = [target.module for target in TARGETS]
    assert len(names) == len(set(names)) > 25
    assert all(any(fnmatch(name, pattern) for name in names) for pattern in config["modules"])
    for target in TARGETS:
        source = (ROOT / target.module).read_text()
        assert all(re.search(rf"^(def |class )?{name}\b", source, re.MULTILINE) for name in target.only), target
        assert target.tests
        for test in [*target.tests, *target.deselected]:
            path, _, name = test.partition("::")
            assert (ROOT / path).is_file() and f"def {name.partition('[')[0]}" in (ROOT / path).read_text(), test


def test_every_listed_survivor_is_of_a_line_of_today_and_has_a_reason():
    survivors = tomllib.loads((command.FOLDER / "survivors.toml").read_text())
    assert set(survivors) <= {target.module for target in TARGETS}
    for module, listed in survivors.items():
        source = join_lines((ROOT / module).read_text().splitlines())
        for each in listed:
            assert {*each} in ({"before", "after", "reason"}, {"before", "operator", "reason"}), each
            assert each["before"] in source and each["reason"], each
            assert each.get("operator", "AddNot") in OPERATORS, each


MODULE = "def is_hot(x):\n    return x > 30\n\n\ndef is_cold(x):\n    return x < 0\n"
TESTS = "from limits import is_hot\n\n\ndef test_hot():\n    assert not is_hot(30) and is_hot(31)\n"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A repository of one module with two functions, one of them tested."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "limits.py").write_text(
        "def is_hot(x):\n    return x > 30\n\n\ndef is_cold(x):\n    return x < 0\n"
    )
    (tmp_path / "tests/test_limits.py").write_text(
        "from limits import is_hot\n\n\ndef test_hot():\n    assert not is_hot(30) and is_hot(31)\n"
    )
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr("tests.scenarios.mutants.runs.ROOT", tmp_path)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    for name in (*command.ENVIRONMENT, "CONVOY_EMPTY_MLFLOW_DB"):
        monkeypatch.setenv(name, "")  # so that they are as before when the test ends
    target = command.Target("limits.py", ["tests/test_limits.py"])
    monkeypatch.setattr(command, "read_config", lambda root: ([target], EXCLUDED_KINDS))
    yield tmp_path
    gc.unfreeze()


def run(folder, *more: str) -> int:
    return command.main(["--out", str(folder / "out.json"), "--work", str(folder / "work"), *more])


def test_survivors_are_named_and_fail_and_results_are_kept_until_the_tests_change(tiny, capsys):
    assert run(tiny) == 1
    printed = capsys.readouterr().out
    assert "limits.py:6: return x < 0  ->  return x <= 0" in printed and "return x > 30" not in printed
    assert (tiny / "limits.py").read_text().startswith("def is_hot(x):\n    return x > 30\n")
    before = json.loads((tiny / "out.json").read_text())
    assert sorted(set(before.values())) == ["killed", "survived"]
    assert run(tiny, "--table") == 1
    with (tiny / "tests/test_limits.py").open("a") as file:
        file.write("\n\ndef test_cold():\n    from limits import is_cold\n\n"
                   "    assert [is_cold(x) for x in (-1, 0, 1)] == [1, 0, 0]\n")  # fmt: skip
    assert run(tiny) == 0
    assert "| limits.py | 8 | 8 | 0 | 0 | 0 | 0 | 100.0% |" in capsys.readouterr().out


def test_tests_that_fail_without_a_mutant_are_an_error(tiny, capsys):
    (tiny / "tests/test_limits.py").write_text("def test_hot():\n    assert False\n")
    assert run(tiny) == 2
    assert "limits.py: its tests fail without a mutant" in capsys.readouterr().out
