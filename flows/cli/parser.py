"""The parser of the command line: errors of one line, and the options that every command has."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from flows.notifications.console import NORMAL, QUIET, VERBOSE
from imageset.exceptions import EXIT_STATUS
from imageset.utils.text import suggest_name

INVALID_CHOICE = re.compile(
    r"argument (?P<name>.+): invalid choice: '(?P<value>.*)' \(choose from (?P<known>.*)\)$"
)
COMMAND = "COMMAND"


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line: the error, the nearest known name, and where the help is."""

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr and exit with status 2, without the usage."""
        self.exit(EXIT_STATUS, f"error: {_simplify_message(message)}; see `{self.prog} --help`\n")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse all arguments. An unknown option is reported by the parser of the command, which knows its own."""
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._find_subparser(getattr(arguments, "command", None))
            parser.error(f"unknown {_describe_unknown(unknown, parser.list_option_strings())}")
        return arguments

    def list_option_strings(self) -> list[str]:
        """Return the long options of this parser."""
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]

    def _find_subparser(self, command: str | None) -> CommandParser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                parser: CommandParser = action.choices[command]
                return parser
        return self


def _simplify_message(message: str) -> str:
    if message == f"the following arguments are required: {COMMAND}":
        return "no command given"
    if match := INVALID_CHOICE.match(message):
        known = re.findall(r"[^\s',]+", match["known"])
        kind = "command" if match["name"] == COMMAND else f"value of {match['name']}"
        return f"unknown {kind} '{match['value']}'{_suggest(match['value'], known) or _list_known(kind, known)}"
    return " ".join(message.split())


def _list_known(kind: str, known: list[str]) -> str:
    return "" if kind == "command" else f"; give one of {', '.join(known)}"


def _describe_unknown(unknown: Sequence[str], options: Iterable[str]) -> str:
    """Describe the first option that is unknown, else the arguments that are too many."""
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        return f"argument{'s' if len(unknown) > 1 else ''} {' '.join(map(repr, unknown))}"
    return f"option {option}{_suggest(option.partition('=')[0], options)}"


def _suggest(name: str, known: Iterable[str]) -> str:
    hint = suggest_name(name, known)
    return f", {hint}" if hint.startswith("did you mean") else ""


class _PrintVersion(argparse.Action):
    """Print the version and exit; it is read only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print "convoy-vision VERSION"."""
        from imageset.distribution import DISTRIBUTION, get_version

        print(f"{DISTRIBUTION} {get_version()}")
        parser.exit()


def add_version_option(parser: argparse.ArgumentParser) -> None:
    """Add `--version`."""
    parser.add_argument("--version", action=_PrintVersion, help="print the version and exit")


def add_verbosity_options(parser: argparse.ArgumentParser, default: str = argparse.SUPPRESS) -> None:
    """Add `-v` and `-q`.

    Args:
        parser: of all commands, or of one.
        default: without it, the parser of a command leaves alone what was given before the command's name.
    """
    group = parser.add_mutually_exclusive_group()
    for short, long, value, text in (
        ("-v", "--verbose", VERBOSE, "also print what otherwise goes to the logs only"),
        ("-q", "--quiet", QUIET, "print only the result, warnings and errors"),
    ):
        group.add_argument(
            short, long, dest="verbosity", action="store_const", const=value, default=default, help=text
        )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before the name of the command."""
    add_version_option(parser)
    add_verbosity_options(parser, default=NORMAL)
