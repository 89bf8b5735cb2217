"""The stages and commands that are disturbed, and in which state of the project each of them begins."""

from __future__ import annotations

from dataclasses import dataclass

PICTURES, INBOX, TABLE = "../pictures", "../inbox", "predictions.parquet"


@dataclass(frozen=True)
class Command:
    """One row of the table.

    Attributes:
        words: `imageset` or `lightning_modules` and a stage; `full_check`; else the arguments of `convoy`.
        state: the name of the state that it begins in, see `projects`.
        statuses: exit statuses of an undisturbed run; of a second one, too.
        status_again: more that only a second one may have, since the first has done its work.
        is_report: whether what it prints is its result.
        needs_prefect: whether it, or what makes its state, reports to Prefect's server.
        starts_server: whether it starts a Prefect server of its own, on an empty database, as in a first project.
        share: of the usual number of tries, for a command that takes long.
        vouches_for: beginnings of paths; a flipped bit there must not outlive it, since it takes these files over.
        must_find: beginnings of paths; it must report a flipped bit there.
    """

    words: tuple[str, ...]
    state: str
    statuses: tuple[int, ...] = (0,)
    status_again: tuple[int, ...] = ()
    is_report: bool = False
    needs_prefect: bool = True
    starts_server: bool = False
    share: float = 1.0
    vouches_for: tuple[str, ...] = ()
    must_find: tuple[str, ...] = ()


COMMANDS = {
    "init": Command(("init", ".", "--name", "faults"), "nothing", needs_prefect=False),
    "normalize-first": Command(("imageset", "normalize"), "raw", needs_prefect=False),
    "check": Command(("check", PICTURES, "--json"), "grown", (0, 1), is_report=True),
    "ingest": Command(("ingest", PICTURES), "grown", vouches_for=("data/raw/",)),
    "normalize": Command(("imageset", "normalize"), "ingested", vouches_for=("data/normalized/",)),
    "fit-first": Command(("lightning_modules", "fit"), "without MLflow"),  # makes MLflow's database
    "fit": Command(("lightning_modules", "fit"), "normalized"),
    "test": Command(("lightning_modules", "test"), "fitted"),
    "explain": Command(("lightning_modules", "explain"), "tested"),
    "promote": Command(("promote", "--override", "tried"), "explained"),
    "predict": Command(("predict", INBOX, "--out", TABLE), "served"),
    "predict-again": Command(("predict", INBOX, "--out", TABLE), "predicted"),  # from warm caches
    "review": Command(("predict", INBOX, "--out", TABLE, "--review", "4"), "served"),
    "tag": Command(("predict", INBOX, "--out", TABLE, "--tag", "sidecar"), "served"),
    "label": Command(("ingest", "predictions.review/review.csv"), "reviewed"),
    "monitor": Command(("monitor", INBOX), "served"),
    "rollback": Command(("rollback", "--reason", "tried"), "served", status_again=(2,)),
    "status": Command(("status", "--json"), "predicted", is_report=True),
    "history": Command(("history", "--json"), "predicted", is_report=True),
    "explain-picture": Command(("explain", f"{INBOX}/again-0.png"), "predicted"),
    "forget": Command(("forget", f"{PICTURES}/0/0000.png", "--yes"), "served", share=0.5),
    "gc": Command(("gc", "--yes"), "served", share=0.5),
    "preset": Command(("preset", "fast"), "initialized", needs_prefect=False),
    "full-check": Command(("full_check",), "served", must_find=("data/raw/", "data/normalized/", "data/models/")),
    "predict-alone": Command(("predict", INBOX, "--out", TABLE), "served", starts_server=True, share=0.5),
    "run": Command(("run", PICTURES), "grown", share=0.5, vouches_for=("data/raw/", "data/normalized/")),
}
