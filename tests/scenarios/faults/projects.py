"""A tiny project in the states that the commands begin in, each made once and copied for every try.

    WORK/slot/project, pictures, inbox, tmp     all tries happen here: no path in them ever changes
    WORK/states/NAME                            the slot in a state

All that is undisturbed, and every try, is a fork of this process, which has imported everything before.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.project import ROOT, set_params
from tests.scenarios.faults.commands import COMMANDS, INBOX, PICTURES, TABLE
from tests.scenarios.faults.tracer import UndisturbedRunFailed, run_function

CLASSES, NUM_FIRST, NUM_GROWN, NUM_INBOX = "012", 16, 20, 24  # pictures of each class, those before included
SMALL_PARAMS = {
    "normalize__size_px": 8,
    "normalize__near_duplicate_bits": None,
    "normalize__max_reject_fraction": 0.5,
    "normalize__split__val": 0.25,
    "train__threads": 1,
    "train__trainer__max_epochs": 1,
    "train__reference_pictures": 10,
    "train__model__network__init_args__filters": [4],
    "train__model__network__init_args__hidden": [],
    "evaluate__bootstrap__resamples": 20,
    "evaluate__worst_mistakes": 4,
    "explain__layers": 1,
    "explain__maps": 1,
    "explain__filters": 1,
    "explain__steps": 1,
    "explain__answers": 1,
    "explain__shifted": 2,
    "explain__windows": 2,
    "promote__resamples": 100,
    "monitor__min_pictures": 10,
    "monitor__pictures": 20,
    "monitor__alpha": 0.05,
    "monitor__permutations": 199,
    "monitor__shown": 4,
}


class Slot:
    """The place of all tries.

    Args:
        work: a folder for it, the states and the logs.
    """

    def __init__(self, work: Path) -> None:
        self.work, self.slot, self.project = work, work / "slot", work / "slot" / "project"
        self.log = work / "output.log"

    def make_state(self, name: str) -> Path:
        """Return the folder of a state; make it, and those that it comes from, where it is missing."""
        folder = self.work / "states" / name
        if not folder.exists():
            before, change = STATES[name]
            if before is None:
                shutil.rmtree(self.slot, ignore_errors=True)
                self.project.mkdir(parents=True)
                (self.slot / "tmp").mkdir()
            else:
                self.restore(before)
            print(f"making the state {name!r}", file=sys.stderr, flush=True)
            change(self)
            copy_folder(self.slot, folder.with_name(f".{name}.partial"))
            folder.with_name(f".{name}.partial").rename(folder)
        return folder

    def restore(self, name: str) -> None:
        """Put the slot into a state."""
        folder = self.make_state(name)
        shutil.rmtree(self.slot, ignore_errors=True)
        copy_folder(folder, self.slot)

    def run(self, *words: str) -> None:
        """Run a command undisturbed; it must succeed."""
        self.call(self.build_work(words), " ".join(words))

    def call(self, work: Callable[[], int], name: str) -> None:
        """Call a function in a process of its own, undisturbed; it must succeed."""
        done = run_function(work, self.log)
        if done.status or done.hung:
            raise UndisturbedRunFailed(f"{name} ends with {done.status}:\n{done.output}")

    def build_work(self, words: tuple[str, ...], starts_server: bool = False) -> Callable[[], int]:
        """Return a function that runs a command in the project."""

        def work() -> int:
            os.chdir(self.project)
            os.environ["TMPDIR"] = str(self.slot / "tmp")
            if starts_server:
                return _run_without_server(words)
            if words[0] == "imageset":
                from imageset.__main__ import main
            elif words[0] == "lightning_modules":
                from lightning_modules.__main__ import main
            elif words[0] == "full_check":
                return _run_full_check()
            else:
                from flows.cli.main import main

                return main(list(words))
            return main(list(words[1:]))

        return work


def _run_without_server(words: tuple[str, ...]) -> int:
    """Run a command of `convoy` as if no server of Prefect were there."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    from flows.cli.main import main

    settings = {PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL}
    for setting in settings:
        os.environ.pop(setting.name, None)
    with temporary_settings(restore_defaults=settings):
        return main(list(words))


def _run_full_check() -> int:
    """Run the flow of the deployment `weekly`."""
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.project.project import Project
    from imageset.exceptions import UserError

    with use_prefect_server(Project.find()):
        from flows.full_check import full_check

        try:
            print(full_check())
        except UserError as error:
            print(f"error: {error}")
            return 2
    return 0


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with its times; blocks are shared where the file system can."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


def write_pictures(folder: Path, start: int, end: int, by_class: bool = True) -> None:
    """Handwritten digits, `start` to `end` of each class, as PNG."""
    from imageset.html.png import encode_png
    from imageset.sources.benchmark_sets.digits import load_digit_images

    pixels, labels = load_digit_images()
    for label in CLASSES:
        place = folder / label if by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        for number in (labels == int(label)).nonzero()[0][start:end]:
            (place / f"{number:04d}.png").write_bytes(encode_png(pixels[number]))


def _init(slot: Slot) -> None:
    write_pictures(slot.slot / "pictures", 0, NUM_FIRST)
    write_pictures(slot.slot / "inbox", NUM_GROWN, NUM_INBOX, by_class=False)
    slot.run("init", ".", "--name", "faults", "--commit")
    slot.run("preset", "scratch")
    set_params(slot.project, **SMALL_PARAMS)


def _pack(slot: Slot) -> None:
    """Make data/raw, as `convoy ingest` does, without Prefect and DVC."""

    def work() -> int:
        from imageset.raw.ingestion import ingest_source

        ingest_source(str(slot.slot / "pictures"), slot.project / "data" / "raw", name="faults")
        return 0

    slot.call(work, "ingest_source")


def _serve(slot: Slot) -> None:
    """Two versions of a model, the second of which serves."""
    slot.run("run", PICTURES)
    slot.run("promote", "--override", "to begin with")  # one epoch is not enough to beat the most frequent class
    _change_recipe(slot, seed=1)
    slot.run("run", PICTURES)
    slot.run("promote", "--override", "tried")


def _change_recipe(slot: Slot, seed: int = 2) -> None:
    set_params(slot.project, train__seed_everything=seed)


def _grow(slot: Slot) -> None:
    write_pictures(slot.slot / "pictures", NUM_FIRST, NUM_GROWN)
    _change_recipe(slot)


def _remove_mlflow(slot: Slot) -> None:
    for path in ("mlflow.db", "mlartifacts", ".cache", "data/models", "metrics.json", "data/ledger.jsonl"):
        place = slot.project / path
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def _predict(slot: Slot) -> None:
    slot.run("predict", INBOX, "--out", TABLE)
    (slot.project / TABLE).unlink()
    for number, path in enumerate(sorted((slot.slot / "inbox").iterdir())[:3]):
        shutil.copy(path, path.with_name(f"again-{number}.png"))


def _review(slot: Slot) -> None:
    slot.run("predict", INBOX, "--out", TABLE, "--review", "4")
    path = slot.project / "predictions.review" / "review.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([{**row, "label": row["guess"]} for row in rows])


# name -> (the state that it comes from, the way from there)
STATES: dict[str, tuple[str | None, Callable[[Slot], None]]] = {
    "nothing": (None, lambda slot: None),
    "initialized": ("nothing", _init),
    "raw": ("initialized", _pack),
    "served": ("initialized", _serve),
    "grown": ("served", _grow),
    "ingested": ("grown", lambda slot: slot.run("ingest", PICTURES)),
    "normalized": ("ingested", lambda slot: slot.run("imageset", "normalize")),
    "without MLflow": ("normalized", _remove_mlflow),
    "fitted": ("normalized", lambda slot: slot.run("lightning_modules", "fit")),
    "tested": ("fitted", lambda slot: slot.run("lightning_modules", "test")),
    "explained": ("tested", lambda slot: slot.run("lightning_modules", "explain")),
    "predicted": ("served", _predict),
    "reviewed": ("served", _review),
}
assert {command.state for command in COMMANDS.values()} <= STATES.keys()


def import_all(needs_prefect: bool) -> None:
    """Import once, for all the processes that are forked from this one."""
    os.environ.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if not needs_prefect:
        importlib.import_module("imageset.normalize.stage")
        return
    for name in (
        "mlflow.pyfunc", "imageset.normalize.stage", "lightning_modules.training.stage",
        "lightning_modules.evaluation.stage", "lightning_modules.explain.stage", "flows.ingest", "flows.pipeline",
        "flows.promote", "flows.predict", "flows.monitor", "flows.reports.status",
        "flows.full_check",
    ):  # fmt: skip
        importlib.import_module(name)


@contextmanager
def serve_prefect(work: Path) -> Iterator[str]:
    """Run one Prefect server for all tries, with its own database; yields the address of its API."""
    from flows.orchestration import prefect_server, subprocesses

    port = prefect_server.find_free_port()
    url = f"http://127.0.0.1:{port}"
    os.environ.update(
        DO_NOT_TRACK="1",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{work / 'prefect.db'}",
        PREFECT_HOME=str(work / "prefect"),
        PREFECT_LOGGING_EXTRA_LOGGERS="flows",
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
        PREFECT_UI_ENABLED="0",
    )
    package = importlib.util.find_spec("prefect")
    assert package is not None and package.origin is not None
    command = [
        sys.executable, "-P", "-m", "uvicorn", "--app-dir", str(Path(package.origin).parent),
        "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port),
        "--log-level", "error",
    ]  # fmt: skip
    with (work / "prefect.log").open("wb") as log:
        child = subprocesses.start_process(command, log=log, cwd=work, env=dict(os.environ))
        try:
            assert prefect_server.wait_until_healthy(child, f"{url}/api/health"), work / "prefect.log"
            os.environ["PREFECT_API_URL"] = f"{url}/api"
            yield f"{url}/api"
        finally:
            subprocesses.stop_process(child)
