"""The commands of `convoy`: their options, and the function that each one calls."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from imageset.executors import factory
from imageset.utils.url_credentials import mask_url

EPILOG = "convoy works in the current folder, which holds dvc.yaml and params.yaml."
SOURCE_HELP = ("folder with one sub-folder a class, archive, table, URL, torchvision://NAME ...; "
          "without it the source of last time")  # fmt: skip

READ_ONLY_COMMANDS = (
    "history",
    "preset",
    "status",
)  # change nothing that runs, so they need not know what was killed
FLOW_COMMANDS = (
    "demo",
    "ingest",
    "monitor",
    "predict",
    "promote",
    "run",
    "sweep",
    "up",
)  # have a Prefect server anyway


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="convoy", description="From a folder of labelled pictures to a registered "
                                  "CNN, and from there to predictions.", epilog=EPILOG)  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, epilog: str = EPILOG) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)

    command("demo", "the whole road on handwritten digits that need no download")
    run = command("run", "ingest a folder, train, and promote the model if it is better")
    run.add_argument("source", nargs="?", help=SOURCE_HELP)
    run.add_argument("--executor", metavar="WHERE", help=factory.EXECUTOR_HELP)
    ingest = command("ingest", "only read a source into data/raw and version it")
    ingest.add_argument("source", nargs="?", help=SOURCE_HELP)
    check = command("check", "look at a source as `run` would, report what is wrong with it, and write nothing")
    check.add_argument("source", help=SOURCE_HELP.partition(";")[0])
    check.add_argument("--executor", metavar="WHERE", help=factory.EXECUTOR_HELP)
    check.add_argument("--json", type=Path, metavar="FILE", help="also write the whole report there")
    promote = command("promote", "only register a trained model, and let it serve if it is better")
    promote.add_argument("run_id", nargs="?", metavar="RUN",
                         help="MLflow's run id, or how it begins; without it the last training")  # fmt: skip
    promote.add_argument("--dry-run", action="store_true", help="only compare and say what would be done")
    promote.add_argument("--override", metavar="REASON", help="let it serve whatever the comparison says; the "
                         "reason goes into the ledger")  # fmt: skip
    rollback = command("rollback", "let the version that served before serve again")
    rollback.add_argument(
        "--model", metavar="NAME", help="registered model; without it the one of data/normalized"
    )
    rollback.add_argument("--reason", metavar="TEXT", help="why; it goes into the ledger")
    verify = command("verify", "train a run once more, from its commit, and say whether its metrics agree")
    verify.add_argument("run_id", metavar="RUN", help="MLflow's run id, or how it begins")
    verify.add_argument("--tolerance", type=float, default=0.0, metavar="X",
                        help="how far a metric may be off; default: not at all")  # fmt: skip
    compare = command("compare", "two runs side by side: parameters, data, metrics, pictures that changed sides")
    compare.add_argument("one", metavar="RUN", help="MLflow's run id, or how it begins")
    compare.add_argument("other", metavar="RUN", help="the run to compare it with")
    compare.add_argument("--page", type=Path, metavar="FILE.html", help="also write it as a page")
    history = command("history", "every decision about what serves, or what served on a date")
    history.add_argument("--at", metavar="DATE", help="e.g. 2026-03-01 (the end of that day) or 2026-03-01T14:30")
    history.add_argument("--model", metavar="NAME", help="one registered model; without it all")
    command("status", "what serves, since when, on which data, what ran last, what comes next, what is wrong")
    command("sync", "send MLflow's server what could not be sent while it was away")
    predict = command("predict", "tag pictures with the model that serves")
    predict.add_argument("source", help="folder, archive, table ...: what ingest takes, labels or not; only read")
    predict.add_argument("--out", required=True, metavar="FILE",
                         help="table to write, one row a picture: .parquet, .csv or .jsonl")  # fmt: skip
    predict.add_argument("--model", metavar="NAME", help="registered model; without it the one of data/normalized")
    predict.add_argument("--new-only", action="store_true",
                         help="only pictures that stand in no table this model version wrote before")  # fmt: skip
    predict.add_argument(
        "--review", type=int, metavar="N", help="also copy the N pictures most worth a label to OUT.review"
    )
    predict.add_argument(
        "--tag",
        choices=("xmp", "sidecar"),
        help="also write labels as XMP into copies of the pictures in OUT.tagged",
    )
    predict.add_argument("--executor", metavar="dask://HOST:PORT",
                         help="a Dask scheduler whose workers decode and run the network")  # fmt: skip
    predict.add_argument("--in-place", action="store_true", help="tag the pictures themselves, not copies")
    predict.add_argument("--engine", choices=("auto", "openvino", "onnxruntime", "pytorch"),
                         help="what runs the network; without it params.yaml says")  # fmt: skip
    predict.add_argument("--precision", choices=("auto", "fp32", "bf16", "int8"),
                         help="a faster one only if it agrees with fp32 on validation pictures")  # fmt: skip
    monitor = command("monitor", "compare pictures with those that the model was trained on; train again if the "
                      "policy says so")  # fmt: skip
    monitor.add_argument("source", help="pictures, or a table that `convoy predict` wrote; only read")
    monitor.add_argument("--pictures", metavar="SOURCE",
                         help="of a table: its pictures; without them only the answers are compared")  # fmt: skip
    monitor.add_argument("--model", metavar="NAME", help="registered model; without it the one of data/normalized")
    monitor.add_argument("--all", action="store_true", help="pictures that were judged before, too")
    up = command("up", "MLflow's UI, Prefect's server, the schedules and a worker, until Ctrl-C")
    up.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT", help="default %(default)s")
    up.add_argument("--prefect-port", type=int, default=4200, metavar="PORT", help="default %(default)s")
    explain = command("explain", "show on one page what the trained network does to a picture")
    explain.add_argument("image", metavar="IMAGE", type=Path, help="a picture; only read")
    explain.add_argument("--run", metavar="RUN", help="MLflow's run id; without it the model that serves")
    explain.add_argument("--out", type=Path, metavar="FILE.html", help="default: IMAGE.explained.html here")
    preset = command("preset", "write a preset's values (presets/NAME.yaml) into params.yaml")
    preset.add_argument("name", metavar="NAME", help="fast, default, best, finetune, or a file of your own")
    sweep = command("sweep", "try other numbers of `train`, and write the best into params.yaml")
    sweep.add_argument("--trials", type=int, metavar="N", help="trainings in all; without it params.yaml says")
    sweep.add_argument(
        "--timeout", type=float, metavar="MINUTES", help="after so long no further training is begun"
    )
    sweep.add_argument("--processes", type=int, metavar="N", help="trainings at once")
    kernels = command("kernels", "show what a filter does to a picture: picture, matrix, feature map in one PNG",
                      epilog="works in any folder.")  # fmt: skip
    kernels.add_argument("image", metavar="IMAGE", type=Path, help="a picture; only read")
    kernels.add_argument("--kernel", required=True, metavar="KERNEL", help="sharpen, edge, blur, emboss, outline, "
                         "identity, or 9 numbers row by row in quotes: '0 -1 0 -1 5 -1 0 -1 0'")  # fmt: skip
    kernels.add_argument("--stride", type=int, default=1, metavar="N", help="px from place to place; default 1")
    kernels.add_argument("--padding", type=int, default=0, metavar="N", help="px of zeros around; default 0")
    kernels.add_argument("--out", type=Path, metavar="FILE.png", help="default: IMAGE.KERNEL.png here")
    return top


def run_command(arguments: argparse.Namespace) -> int:
    if arguments.command == "kernels":  # needs no project
        from lightning_modules.kernels import write_kernel_page

        a = arguments
        print(write_kernel_page(a.image, a.kernel, a.stride, a.padding, a.out))
        return 0
    from flows.notifications import console
    from flows.project.paths import find_project

    project = find_project()
    console.attach_console()
    if where := getattr(arguments, "executor", None):
        os.environ[factory.EXECUTOR_VARIABLE] = factory.check_executor_name(
            where
        )  # read by the stage, which DVC starts
    if getattr(arguments, "source", None):
        arguments.source = mask_url(arguments.source)  # before Prefect notes it as a flow's parameter
    if arguments.command in READ_ONLY_COMMANDS or getattr(arguments, "dry_run", False):
        return _dispatch(project, arguments)
    from flows.orchestration import crash_recovery

    words = ("convoy", arguments.command, getattr(arguments, "source", None))
    with crash_recovery.record_process(project, " ".join(word for word in words if word)):
        if arguments.command not in (*FLOW_COMMANDS, "rollback"):
            _close_crashed_runs(project)
        try:
            status = _dispatch(project, arguments)
        except Exception:
            _close_crashed_runs(project)
            raise
        _close_crashed_runs(project)  # nobody waits for a server in the middle of a rollback
        return status


def _close_crashed_runs(project: Path) -> None:
    """Runs that were killed stand in Prefect's database as running; only a server can close them."""
    from flows.orchestration import crash_recovery
    from flows.orchestration.prefect_server import use_prefect_server

    if crash_recovery.needs_prefect_server(project):
        with use_prefect_server(project):
            pass


def _dispatch(project: Path, arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "demo":
            from flows.cli.demo import run_demo

            print(run_demo(project))
        case "check":
            from imageset.utils.memory import give_freed_memory_back

            give_freed_memory_back()
            from flows.versioning.source_check import report_source

            print(report_source(arguments.source, project, arguments.json))
        case "rollback":
            from flows.project.paths import read_dataset_name
            from flows.promotion.rollback import rollback

            print(rollback(project, arguments.model or read_dataset_name(project), arguments.reason))
        case "compare":
            from flows.reports.run_comparison import compare_runs

            print(compare_runs(project, arguments.one, arguments.other, arguments.page))
        case "verify":
            from flows.reports.reproduction import verify_run

            verified = verify_run(project, arguments.run_id, arguments.tolerance)
            print(verified)
            return 0 if verified.agrees else 1
        case "history":
            from flows.reports.history import report_history

            print(report_history(project, arguments.model, arguments.at))
        case "status":
            from flows.reports.status import report_status

            print(report_status(project))
        case "sync":
            from lightning_modules.tracking.offline_queue import sync_queues

            print(sync_queues(project))
        case "explain":
            from flows.reports.explanation import write_explanation

            print(write_explanation(arguments.image, arguments.run, arguments.out, project))
        case "preset":
            from flows.project.presets import apply_preset

            print(apply_preset(arguments.name, project))
        case "up":
            from flows.cli.up import run_servers

            run_servers(
                project, arguments.mlflow_port, arguments.prefect_port, lambda text: print(text, flush=True)
            )
        case _:
            _dispatch_flow(project, arguments)
    return 0


def _dispatch_flow(project: Path, arguments: argparse.Namespace) -> None:
    """Call one flow. What is plainly wrong is said before a server is started for it."""
    from flows.monitoring.drift_check import check_monitor
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.prediction.table_writer import check_prediction
    from flows.project.params import load_monitor_params
    from flows.promotion.model_registry import check_promotable_run
    from flows.sweeps.study import check_sweep
    from flows.versioning.source_check import check_source

    match arguments.command:
        case "run" | "ingest":
            check_source(arguments.source, project)
            with use_prefect_server(project):
                if arguments.command == "ingest":
                    from flows.ingest import ingest

                    ingest(arguments.source)
                else:
                    from flows.pipeline import pipeline

                    print(pipeline(arguments.source))
        case "promote":
            if arguments.dry_run:
                from flows.promote import dry_run_promotion

                print(dry_run_promotion(arguments.run_id))
                return
            if arguments.run_id:
                check_promotable_run(arguments.run_id, project)
            with use_prefect_server(project):
                from flows.promote import promote

                print(promote(arguments.run_id, arguments.override))
        case "monitor":
            check_monitor(arguments.source, arguments.pictures)
            load_monitor_params(project)
            with use_prefect_server(project):
                from flows.monitor import monitor

                print(monitor(arguments.source, arguments.pictures, arguments.model, arguments.all))
        case "sweep":
            check_sweep(project, arguments.trials, arguments.processes)
            with use_prefect_server(project):
                from flows.sweep import sweep

                print(sweep(arguments.trials, arguments.timeout, arguments.processes))
        case "predict":
            check_prediction(arguments.source, arguments.out)
            with use_prefect_server(project):
                from flows.predict import predict

                a = arguments
                print(predict(a.source, a.out, a.model, a.new_only, a.engine, a.precision, a.review, a.tag,
                              a.in_place, a.executor))  # fmt: skip
