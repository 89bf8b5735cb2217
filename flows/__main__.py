"""`convoy`: a thin door to the flows. What a command needs is imported when that command runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from imageset import executors
from imageset.errors import EXIT_STATUS, UserError

EPILOG = "convoy works in the current folder, which holds dvc.yaml and params.yaml."
SOURCE = ("folder with one sub-folder a class, archive, table, URL, torchvision://NAME ...; "
          "without it the source of last time")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 where the user can mend it, with one line on stderr."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell script put us in the background
    try:
        return _run(arguments)
    except (UserError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "status", EXIT_STATUS))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="convoy", description="From a folder of labelled pictures to a registered "
                                  "CNN, and from there to predictions.", epilog=EPILOG)  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, epilog: str = EPILOG) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)

    command("demo", "the whole road on handwritten digits that need no download")
    run = command("run", "ingest a folder, train, and promote the model if it is better")
    run.add_argument("source", nargs="?", help=SOURCE)
    run.add_argument("--executor", metavar="WHERE", help=executors.HELP)
    ingest = command("ingest", "only read a source into data/raw and version it")
    ingest.add_argument("source", nargs="?", help=SOURCE)
    check = command("check", "look at a source as `run` would, report what is wrong with it, and write nothing")
    check.add_argument("source", help=SOURCE.partition(";")[0])
    check.add_argument("--executor", metavar="WHERE", help=executors.HELP)
    check.add_argument("--json", type=Path, metavar="FILE", help="also write the whole report there")
    promote = command("promote", "only register a trained model, and let it serve if it is better")
    promote.add_argument("run_id", nargs="?", metavar="RUN", help="MLflow's run id; without it the last training")
    predict = command("predict", "tag pictures with the model that serves")
    predict.add_argument("source", help="folder, archive, table ...: what ingest takes, labels or not; only read")
    predict.add_argument("--out", required=True, metavar="FILE",
                         help="table to write, one row a picture: .parquet, .csv or .jsonl")  # fmt: skip
    predict.add_argument("--model", metavar="NAME", help="registered model; without it the one of data/normalized")
    predict.add_argument("--new-only", action="store_true",
                         help="only pictures that stand in no table this model version wrote before")  # fmt: skip
    up = command("up", "MLflow's UI, Prefect's server, the schedules and a worker, until Ctrl-C")
    up.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT", help="default %(default)s")
    up.add_argument("--prefect-port", type=int, default=4200, metavar="PORT", help="default %(default)s")
    kernels = command("kernels", "show what a filter does to a picture: picture, matrix, feature map in one PNG",
                      epilog="works in any folder.")  # fmt: skip
    kernels.add_argument("image", metavar="IMAGE", type=Path, help="a picture; only read")
    kernels.add_argument("--kernel", required=True, metavar="KERNEL", help="sharpen, edge, blur, emboss, outline, "
                         "identity, or 9 numbers row by row in quotes: '0 -1 0 -1 5 -1 0 -1 0'")  # fmt: skip
    kernels.add_argument("--stride", type=int, default=1, metavar="N", help="px from place to place; default 1")
    kernels.add_argument("--padding", type=int, default=0, metavar="N", help="px of zeros around; default 0")
    kernels.add_argument("--out", type=Path, metavar="FILE.png", help="default: IMAGE.KERNEL.png here")
    return top


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "kernels":  # needs no project
        from lightning_modules.kernels import write_kernel_page

        a = arguments
        print(write_kernel_page(a.image, a.kernel, a.stride, a.padding, a.out))
        return 0
    from flows import console
    from flows.project import find_project

    project = find_project()
    console.attach()
    if where := getattr(arguments, "executor", None):
        os.environ[executors.VARIABLE] = executors.check_name(where)  # read by the stage, which DVC starts
    match arguments.command:
        case "demo":
            from flows.demo import demo

            print(demo(project))
        case "check":
            from flows.checks import report

            print(report(arguments.source, project, arguments.json))
        case "up":
            from flows.up import up

            up(project, arguments.mlflow_port, arguments.prefect_port, lambda text: print(text, flush=True))
        case _:
            _run_flow(project, arguments)
    return 0


def _run_flow(project: Path, arguments: argparse.Namespace) -> None:
    """Call one flow. What is plainly wrong is said before a server is started for it."""
    from flows.checks import check_prediction, check_source
    from flows.server import prefect_api

    match arguments.command:
        case "run" | "ingest":
            check_source(arguments.source, project)
            with prefect_api(project):
                if arguments.command == "ingest":
                    from flows.ingest import ingest

                    ingest(arguments.source)
                else:
                    from flows.pipeline import pipeline

                    print(pipeline(arguments.source))
        case "promote":
            with prefect_api(project):
                from flows.promote import promote

                print(promote(arguments.run_id))
        case "predict":
            check_prediction(arguments.source, arguments.out)
            with prefect_api(project):
                from flows.predict import predict

                print(predict(arguments.source, arguments.out, arguments.model, arguments.new_only))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends like any exception, so that what we started is stopped on the way out."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
