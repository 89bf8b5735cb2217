"""`convoy completion SHELL`: a script that completes commands, options and paths, made from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from flows.cli.location import PATH_ARGUMENTS

SHELLS = ("bash", "zsh", "fish")
FOLDER_ARGUMENTS = ("directory", "folder")  # by their name in the parsed arguments
EPILOG = (
    'bash: eval "$(convoy completion bash)" in ~/.bashrc; zsh: eval "$(convoy completion zsh)" in ~/.zshrc, after '
    "compinit; fish: convoy completion fish > ~/.config/fish/completions/convoy.fish"
)


def format_completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Format the script that makes a shell complete the command line of a parser.

    Args:
        parser: of all commands.
        shell: one of `SHELLS`.
    """
    import shtab

    for action in _iter_actions(parser):
        if action.dest in PATH_ARGUMENTS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in FOLDER_ARGUMENTS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    # To zsh, (*) says that no option may follow; * alone is the rest of the arguments.
    return str(shtab.complete(parser, shell=shell)).replace('  "(*):', '  "*:')


def _iter_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the actions of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _iter_actions(subparser)
