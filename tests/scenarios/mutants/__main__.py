"""Mutation testing: small changes to what decides, each of which a test must notice.

    make mutants        (python -m tests.scenarios.mutants [--only alias_updates,ledger] ...)

`modules.toml` names the modules and the tests of each. A mutant is the module with one change (operators.py): it
is written into a copy of the tree, never into the tree itself, and its tests run in a fork of a process that has
imported all other packages. `survivors.toml` lists the mutants that no test can notice, each with its reason.

Results go to --out: another run tests only what changed since, and goes on where one stopped. Exit status 1 if
of some module fewer than 95% of the mutants, without those listed, are killed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.project import ROOT
from tests.scenarios.mutants.mutations import Mutant, list_mutants
from tests.scenarios.mutants.results import Counts, Results, digest_tests, format_table
from tests.scenarios.mutants.runs import KILLED, POLL_S, SURVIVED, TIMED_OUT, Baseline, Slot, measure_tests

FOLDER = Path(__file__).resolve().parent
MIN_KILLED = 0.95
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Target:
    """A module and its tests.

    Attributes:
        module: path from the root of the repository.
        tests: files of tests, likewise, or tests in them.
        only: names at the top level of the module; nothing else of it is changed.
        deselected: tests in them that take too long for what they add.
        listed: survivors that are listed with a reason: of a line (before) and either a change (after) or an
            operator.
    """

    module: str
    tests: list[str]
    only: list[str] = field(default_factory=list)
    deselected: list[str] = field(default_factory=list)
    listed: list[dict[str, str]] = field(default_factory=list)

    def lists(self, mutant: Mutant) -> bool:
        """Whether a mutant is among those that may survive."""
        return any(
            each["before"] == mutant.before and mutant.after == each.get("after", mutant.after)
            and mutant.operator == each.get("operator", mutant.operator)
            for each in self.listed
        )  # fmt: skip


def read_config(root: Path) -> tuple[list[Target], list[str]]:
    """Return the modules of a tree, and the kinds of code that are left alone.

    A name with `*` stands for the modules of a folder that are not named themselves. The tests of each are in the
    file that mirrors it, or, without one, in those that the table names.
    """
    config = tomllib.loads((FOLDER / "modules.toml").read_text(encoding="utf-8"))
    survivors = tomllib.loads((FOLDER / "survivors.toml").read_text(encoding="utf-8"))
    targets = []
    for name, table in config["modules"].items():
        for module in [name] if "*" not in name else _list_others(root, name, list(config["modules"])):
            mirror = Path("tests", module).with_name(f"test_{Path(module).name}")
            is_mirrored = "*" in name and (root / mirror).is_file()
            tests = [mirror.as_posix()] if is_mirrored else table["tests"]
            only, deselected = table.get("only", []), table.get("deselected", [])
            targets.append(Target(module, tests, only, deselected, survivors.get(module, [])))
    return targets, list(config["excluded"])


def _list_others(root: Path, pattern: str, named: list[str]) -> list[str]:
    found = [path for path in sorted(root.glob(pattern)) if path.name != "__init__.py"]
    return [name for name in (path.relative_to(root).as_posix() for path in found) if name not in named]


def main(arguments: list[str] | None = None) -> int:
    """Test the mutants that are due, then print the table."""
    options = _parse(arguments)
    os.environ.update(ENVIRONMENT)
    targets, excluded = read_config(ROOT)
    targets = [target for target in targets if any(text in target.module for text in options.only.split(","))]
    results, counts, broken = Results(options.out), {}, []
    places = [] if options.table else [options.work.resolve() / str(number) for number in range(options.processes)]
    slots = [Slot(place) for place in places]
    root = slots[0].tree if slots else ROOT  # the tree may be edited meanwhile
    os.environ["CONVOY_EMPTY_MLFLOW_DB"] = str(options.work.resolve() / "mlflow.db")
    for target in targets:
        source = (root / target.module).read_text(encoding="utf-8")
        every, tests = list_mutants(source, excluded, target.only), digest_tests(root, target.tests)
        mutants = [mutant for mutant in every if options.listed or not target.lists(mutant)]
        due = [mutant for mutant in mutants if results.find(target.module, mutant, tests) is None]
        begin = time.monotonic()
        if due and slots:
            baseline = measure_tests(slots, target.tests, target.deselected)
            if baseline is None:
                print(f"{target.module}: its tests fail without a mutant:\n{slots[0].log.read_text()[-3000:]}")
                broken.append(target.module)
                continue
            _test_mutants(slots, target, due, baseline, results, tests)
        counts[target.module] = _count(target, every, results, tests)
        seconds = time.monotonic() - begin
        print(f"{target.module}: {counts[target.module]} ({seconds:.0f} s)", flush=True)
    print(format_table(counts))
    if broken:
        print(f"tests that fail without a mutant: those of {', '.join(broken)}")
        return 2
    return int(any(count.share_killed < MIN_KILLED or count.untested for count in counts.values()))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.scenarios.mutants", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--only", default="", metavar="A,B", help="modules with one of these in their path")
    add("--processes", type=int, default=2, metavar="N", help="default %(default)s")
    add("--out", type=Path, default=Path(".cache/mutants.json"), metavar="FILE", help="default %(default)s")
    add("--work", type=Path, default=Path(".cache/mutants"), metavar="DIR", help="of the copies; %(default)s")
    add("--listed", action="store_true", help="test the listed survivors, too: which of them are killed by now?")
    add("--table", action="store_true", help="only print the table of the results")
    return parser.parse_args(arguments)


def _test_mutants(
    slots: list[Slot], target: Target, due: list[Mutant], baseline: Baseline, results: Results, tests: str
) -> None:
    """Test mutants, one in each slot at a time."""
    limit_s = 20 + 8 * baseline.took_s
    waiting, running = list(reversed(due)), {}
    try:
        while waiting or running:
            for slot in slots:
                if slot not in running and waiting:
                    running[slot] = waiting.pop()
                    slot.write(target.module, running[slot].source)
                    slot.start(baseline.tests, limit_s)
            for slot in [slot for slot in slots if slot in running]:
                if (result := slot.poll()) is not None:
                    mutant = running.pop(slot)
                    results.add(target.module, mutant, tests, result)
                    if result == SURVIVED and not target.lists(mutant):
                        print(f"  {target.module}:{mutant}", flush=True)
            time.sleep(POLL_S)
    finally:
        for slot in running:
            slot.kill()
        for slot in slots:
            slot.restore()


def _count(target: Target, mutants: list[Mutant], results: Results, tests: str) -> Counts:
    ended = [(mutant, results.find(target.module, mutant, tests)) for mutant in mutants]
    survived = [mutant for mutant, result in ended if result == SURVIVED]
    return Counts(
        sum(result == KILLED for _, result in ended),
        sum(result == TIMED_OUT for _, result in ended),
        sum(target.lists(mutant) and result not in (KILLED, TIMED_OUT) for mutant, result in ended),
        [str(mutant) for mutant in survived if not target.lists(mutant)],
        sum(result is None and not target.lists(mutant) for mutant, result in ended),
    )


if __name__ == "__main__":
    sys.exit(main())
