"""Disturb every stage and command: kills, signals, full and failing disks, flipped bits; nothing is lost or false.

    make faults          (python -m tests.scenarios.faults [--commands predict,fit] [--kinds kill,flip] ...)

Each try copies a tiny project, lets one fault come while a command runs, runs the command once more undisturbed,
and compares all that the project then holds with undisturbed projects. A fault comes at a counted system call on a
file of the project (points.py), whatever process makes it: a tracer sees the calls of Python, pyarrow, SQLite, git
and DVC alike, without a compiler, a mount or root (tracer.py; Linux on x86_64; docs/decisions/0023). Kinds:

    kill, kill-main      SIGKILL to all processes, or to the first only; half of the kills at a write tear it
    term, int            SIGTERM to the first process; SIGINT to all, as Ctrl-C does
    enospc, erofs        from the point on, no file can be written; a full disk still lets files be removed
    eio                  one write or fsync fails
    emfile               from the point on, no file can be opened
    flip, rot            one bit of a file that the project keeps changes; rot: and the file's time does not

Results go to --out; another run of the same code goes on where it stopped. Exit status 1 if a try was false, lost
something, showed a traceback, hung, left something behind or ended with a status that is not documented.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.scenarios.faults.commands import COMMANDS
from tests.scenarios.faults.flips import draw_flips
from tests.scenarios.faults.points import FLIPS, KINDS, draw_points
from tests.scenarios.faults.projects import Slot, import_all, serve_prefect
from tests.scenarios.faults.syscalls import explain_missing_tracer
from tests.scenarios.faults.table import Results, digest_code
from tests.scenarios.faults.tracer import UndisturbedRunFailed
from tests.scenarios.faults.tries import Tries, keep_project

# Tries of each command: 1,058 kills and signals and 534 faults for 24 commands, two of which get half of them
NUMBERS = {
    "kill": 24, "kill-main": 8, "term": 8, "int": 6,
    "enospc": 5, "eio": 5, "erofs": 3, "emfile": 3, "flip": 4, "rot": 3,
}  # fmt: skip
SPARE = 3  # points for one try: a run may end before the first of them comes


def main(arguments: list[str] | None = None) -> int:
    """Run the tries that are due, print each that went wrong, then the table."""
    options = _parse(arguments)
    if problem := explain_missing_tracer():
        print(f"error: {problem}", file=sys.stderr)
        return 2
    results, failed = Results(options.out, options.seed), False
    if not options.table:
        needs_prefect = any(COMMANDS[name].needs_prefect for name in options.commands)
        with _open_work(options.work) as work, serve_prefect(work) if needs_prefect else nullcontext() as api:
            import_all(needs_prefect)
            for name in options.commands:
                try:
                    _try_command(Tries(Slot(work), name, api, tuple(options.patience)), results, options)
                except UndisturbedRunFailed as error:
                    failed = True
                    print(f"{name} is left out: {error}", flush=True)
    print(results.format_table())
    return int(failed or any(number for name, number in results.count_totals().items() if name != "tries"))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.scenarios.faults", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--commands",
        type=_choose(COMMANDS),
        default=list(COMMANDS),
        metavar="A,B",
        help=f"default: {', '.join(COMMANDS)}",
    )
    add("--kinds", type=_choose(KINDS), default=list(KINDS), metavar="A,B", help="of fault; default: all")
    add("--number", type=int, metavar="N", help=f"tries of each command and kind; default: {NUMBERS}")
    add("--seed", type=int, default=0, help="of the points and the bits")
    add("--only", default="", metavar="TEXT", help="only at files with this in their path")
    add("--out", type=Path, default=Path("faults.json"), metavar="FILE", help="of results; default %(default)s")
    add("--work", type=Path, metavar="DIR", help="keep the prepared projects there for the next call")
    add("--keep", type=Path, metavar="DIR", help="copy each project there in which a try went wrong")
    add(
        "--patience",
        type=float,
        nargs=2,
        default=(300.0, 10.0),
        metavar=("RUN", "SIGNAL"),
        help="seconds that a run, and its end after a signal, may take; default %(default)s",
    )
    add(
        "--part",
        type=_parse_part,
        default=(1, 1),
        metavar="I/N",
        help="only each N-th try, from the I-th on: for N at a time, with a --work each and one --out",
    )
    add("--table", action="store_true", help="only print the table of the results")  # fmt: skip
    return parser.parse_args(arguments)


def _choose(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _parse_part(text: str) -> tuple[int, int]:
    part, _, number = text.partition("/")
    if not 1 <= int(part) <= int(number):
        raise ValueError
    return int(part), int(number)


@contextmanager
def _open_work(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        place = folder / digest_code()  # projects that other code has made are left alone
        place.mkdir(parents=True, exist_ok=True)
        yield place.resolve()
        return
    temporary = tempfile.mkdtemp()  # not TemporaryDirectory, which every fork would remove at its end
    try:
        yield Path(temporary).resolve()
    finally:
        shutil.rmtree(temporary)


def _try_command(tries: Tries, results: Results, options: argparse.Namespace) -> None:
    """The tries of one command that the results do not hold yet."""
    for kind in options.kinds:
        number = options.number or math.ceil(NUMBERS[kind] * tries.command.share)
        seed = f"{options.seed} {tries.name} {kind}"
        if kind in FLIPS:
            state = tries.slot.make_state(tries.command.state) / "project"
            faults = [[flip] for flip in draw_flips(state, number, seed, options.only)]
        else:
            points = draw_points(kind, tries.operations, number * SPARE, seed, options.only)
            faults = [points[place::number] for place in range(min(number, len(points)))]
        for place, choices in enumerate(faults):
            key = f"{tries.name}/{kind}/{place}"
            if key in results.tries or place % options.part[1] != options.part[0] - 1:
                continue
            began = time.monotonic()
            for fault in choices:
                done = tries.flip(kind, fault) if kind in FLIPS else tries.signal_or_fail(kind, fault)
                if done.reached:
                    break
            done.took_s = round(time.monotonic() - began, 1)
            results.add(key, done)
            for problem, line in done.problems:
                print(f"{key}: {done.fault}: {problem}: {line}", flush=True)
            if done.problems and options.keep:
                keep_project(tries.slot, options.keep / key)


if __name__ == "__main__":
    sys.exit(main())
