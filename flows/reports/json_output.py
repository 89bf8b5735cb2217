"""`--json`: one JSON document on stdout and nothing else there."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Protocol

from imageset.utils.text import escape_lines

# The keys of each document, which scripts rely on; `to_dict` of the result describes them.
KEYS = {
    "check": (
        "source", "problem", "num_pictures", "num_sound", "classes", "splits", "refused", "passed_over",
        "short_sides_px", "max_reject_fraction", "near_duplicates", "warnings", "run_splits", "split_problem",
        "project_problem", "test_power", "size_px", "channels", "networks", "reasons", "stops", "ranges",
        "sequences",
    ),
    "compare": ("runs", "gained", "lost", "num_shared"),
    "history": ("at", "decisions", "served"),
    "predict": (
        "out", "num_rows", "num_errors", "num_abstained", "passed_over", "model", "version", "run_id", "drift",
    ),
    "status": (
        "project", "serving", "tested", "drift", "data", "trained", "last_run", "last_failed_run", "next_run",
        "unfinished_training", "full_check", "servers", "problems",
    ),
}  # fmt: skip


class Result(Protocol):
    """A result that can be printed: `str` gives the text, `to_dict` the document, whose keys it describes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""


def add_json_option(parser: argparse.ArgumentParser, command: str) -> None:
    """Add `--json` to the parser of a command; its help names the keys."""
    keys = ", ".join(KEYS[command])
    text = f"print one JSON document on stdout, everything else on stderr; its keys: {keys}"
    parser.add_argument("--json", action="store_true", help=text)


@contextmanager
def keep_stdout_for_json(arguments: argparse.Namespace) -> Iterator[None]:
    """With `--json`, send what is printed in this block to stderr, except the document of `print_result`."""
    arguments.stdout = sys.stdout
    if not getattr(arguments, "json", False):
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_result(result: Result, arguments: argparse.Namespace) -> None:
    """Print a result as text, or with `--json` as one document."""
    text = format_json(result.to_dict()) if arguments.json else escape_lines(str(result))
    print(text, file=arguments.stdout, flush=True)


def format_json(values: Any) -> str:
    """Format values as JSON; a number that is not finite, which JSON does not know, becomes null."""
    return json.dumps(_replace_infinite(values), indent=2, ensure_ascii=False, allow_nan=False)


def _replace_infinite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _replace_infinite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_replace_infinite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
