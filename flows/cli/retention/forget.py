"""The command `convoy forget`."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = (
    "without --yes it only says what it would do. `convoy forget --yes` completes a command that was killed. "
    "The status is 1 if a copy is left in a file that is not Convoy's."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy forget`."""
    parser.add_argument(
        "words",  # not paths alone, so they are not moved as those of other commands
        nargs="*",
        metavar="PICTURE",
        help="its image_id, a file with the same bytes, or its name in the source",
    )
    parser.add_argument("--list", dest="list_file", metavar="FILE", type=Path, help="pictures, one a line")
    parser.add_argument("--yes", dest="dry_run", action="store_false", help="do it; without it, only say what")


def run(arguments: argparse.Namespace) -> int:
    """Forget pictures, or show what that would do; return the exit status."""
    from flows.retention.forget import forget
    from flows.retention.journal import read_list
    from imageset.utils.text import escape_lines

    here = Path(arguments.here)
    words = [*arguments.words]
    if arguments.list_file is not None:
        words += read_list(here / arguments.list_file)
    result = forget(arguments.project, words, here, is_confirmed=not arguments.dry_run)
    print(escape_lines(str(result)), flush=True)
    return 0 if result.is_complete else 1
