"""The files around the packages say what is so."""

import re

from tests.helpers.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_command_of_convoy():
    from flows.cli.commands import build_parser

    (commands,) = [action for action in build_parser()._actions if hasattr(action, "choices") and action.choices]
    assert [name for name in commands.choices if f"`convoy {name}" not in README] == []


def test_the_readme_names_no_command_that_convoy_does_not_have():
    from flows.cli.commands import build_parser

    (commands,) = [action for action in build_parser()._actions if hasattr(action, "choices") and action.choices]
    named = set(re.findall(r"(?:^\$ |`)convoy (\w+)", README, re.M))
    assert {"run", "predict"} <= named <= set(commands.choices)


def test_the_readme_names_only_targets_that_make_has():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    named = set(re.findall(r"(?:^\$ |`)make (\w+)", README, re.M))
    assert {"demo", "test"} <= named <= targets


def test_every_file_that_the_readme_shows_or_names_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    assert [path for path in pictures if not (ROOT / path).is_file()] == []


def test_the_readme_names_every_reason_to_refuse_a_picture():
    from imageset.rejections import REASONS

    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    assert {code: rows.get(code) for code in REASONS} == REASONS
