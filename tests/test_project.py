"""The files around the packages say what is so."""

import re
import subprocess
import sys

import yaml

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lock_is_exact_and_names_no_address():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len(lines) > 100
    assert [
        line for line in lines if not re.match(r"^[A-Za-z0-9._-]+(\[[\w,]+\])?==[\w.+!]+( ; .*)?$", line)
    ] == []


def test_the_readme_names_every_command_of_convoy():
    from flows.__main__ import parser

    (commands,) = [action for action in parser()._actions if hasattr(action, "choices") and action.choices]
    assert [name for name in commands.choices if f"`convoy {name}" not in README] == []


def test_the_readme_names_no_command_that_convoy_does_not_have():
    from flows.__main__ import parser

    (commands,) = [action for action in parser()._actions if hasattr(action, "choices") and action.choices]
    assert set(re.findall(r"(?:^\$ |`)convoy (\w+)", README, re.M)) <= set(commands.choices)


def test_the_readme_names_only_targets_that_make_has():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    assert set(re.findall(r"(?:^\$ |`)make (\w+)", README, re.M)) <= targets


def test_every_file_that_the_readme_shows_or_names_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    assert [path for path in pictures if not (ROOT / path).is_file()] == []


def test_every_code_file_that_a_stage_depends_on_is_there():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    code = [path for stage in stages.values() for path in stage["deps"] if path.endswith(".py")]
    assert code and [path for path in code if not (ROOT / path).is_file()] == []


def test_every_section_that_a_stage_depends_on_is_in_params():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert {name for stage in stages.values() for name in stage["params"]} <= set(params)


def test_importing_what_every_command_needs_loads_nothing_heavy_and_writes_nothing(tmp_path):
    heavy = ["torch", "torchvision", "pytorch_lightning", "mlflow", "prefect", "dvc", "sklearn", "matplotlib"]
    code = (
        "import sys; import flows.__main__, imageset.normalize, imageset.store, imageset.sources; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert list(tmp_path.iterdir()) == []


def test_the_readme_names_every_reason_to_refuse_a_picture():
    from imageset.quality import REASONS

    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    assert {code: rows.get(code) for code in REASONS} == REASONS
