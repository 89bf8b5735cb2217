"""The command `convoy gc`."""

from __future__ import annotations

import argparse

EPILOG = "without --yes it only says what it would remove, with sizes."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy gc`."""
    parser.add_argument("--yes", dest="dry_run", action="store_false", help="do it; without it, only say what")


def run(arguments: argparse.Namespace) -> int:
    """Remove what nothing needs, or show what that is; return the exit status."""
    from flows.retention.garbage import collect_garbage
    from imageset.utils.text import escape_lines

    result = collect_garbage(arguments.project, is_confirmed=not arguments.dry_run)
    print(escape_lines(str(result)), flush=True)
    return 0
