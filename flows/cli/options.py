"""The options of each command of `convoy`, as argparse takes them."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli import completion
from flows.reports.json_output import add_json_option
from imageset.executors import factory

SOURCE_HELP = "folder with one sub-folder a class, archive, table, URL, torchvision://NAME ..."
OPTIONAL_SOURCE_HELP = (
    f"{SOURCE_HELP}; without it, the source of the last ingest. A label table, such as a review.csv that was "
    "filled in, adds its labels to the project's pictures"
)
RUN_HELP = "MLflow's run id, or its first characters"
MODEL_HELP = "registered model; without it, the model of the dataset in data/normalized"


def add_init_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy init`."""
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="DIR", help="made if it is missing; default: here"
    )
    parser.add_argument("--name", help="of the project, its dataset and its model; default: the folder's name")
    parser.add_argument("--commit", action="store_true", help="also commit the new files to git")


def add_upgrade_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy upgrade`."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would change and run again")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the source, for `convoy run` and `convoy ingest`."""
    parser.add_argument("source", nargs="?", help=OPTIONAL_SOURCE_HELP)
    parser.add_argument(
        "--replace-source",
        action="store_true",
        help="the project's pictures come from another source from now on; those of the former one are left out",
    )
    parser.add_argument(
        "--by",
        dest="labeled_by",
        metavar="NAME",
        help="who gave the labels of a label table, where its rows do not say; default: git's user.name",
    )
    parser.add_argument(
        "--resolve",
        action="store_true",
        help="the labels of this label table count, whatever other people said of the same pictures",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy run`."""
    add_source_options(parser)
    parser.add_argument("--executor", metavar="WHERE", help=factory.EXECUTOR_HELP)


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy check`."""
    parser.add_argument("source", help=SOURCE_HELP)
    parser.add_argument("--executor", metavar="WHERE", help=factory.EXECUTOR_HELP)
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the whole report there, as JSON")
    add_json_option(parser, "check")


def add_promote_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy promote`."""
    parser.add_argument("run_id", nargs="?", metavar="RUN", help=f"{RUN_HELP}; without it, the last training")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only compare, and report what would be done; it counts as a use of the test pictures",
    )
    parser.add_argument(
        "--power", action="store_true", help="only print the gains that so many test pictures could show"
    )
    parser.add_argument(
        "--override",
        metavar="REASON",
        help="promote whatever the comparison says; the reason is written to the ledger",
    )


def add_rollback_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy rollback`."""
    parser.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    parser.add_argument("--reason", metavar="TEXT", help="why; it is written to the ledger")


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy verify`."""
    parser.add_argument("run_id", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="by how much a metric may differ; default: not at all",
    )


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy compare`."""
    parser.add_argument("first_run_id", metavar="RUN", help=RUN_HELP)
    parser.add_argument("second_run_id", metavar="RUN", help="the run to compare it with")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="also write the comparison as a page")
    add_json_option(parser, "compare")


def add_history_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy history`."""
    parser.add_argument("--at", metavar="DATE", help="e.g. 2026-03-01 (the end of that day) or 2026-03-01T14:30")
    parser.add_argument("--model", metavar="NAME", help="one registered model; without it, all of them")
    add_json_option(parser, "history")


def add_explain_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy explain`."""
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a picture; it is only read")
    parser.add_argument("--run", metavar="RUN", help="MLflow's run id; without it, the champion")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="default: IMAGE.explained.html here")


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy predict`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="whatever `convoy ingest` reads, with or without labels, or picture files; it is only read",
    )
    parser.add_argument(
        "--out",
        default="predictions.parquet",
        metavar="FILE",
        help="table to write, one row a picture: .parquet, .csv or .jsonl; default %(default)s",
    )
    parser.add_argument(
        "--model", metavar="NAME", help=f"{MODEL_HELP}; imagenet: a network that is installed, 1,000 classes"
    )
    parser.add_argument(
        "--new-only",
        action="store_true",
        help="only pictures that are in no table that this model version has written",
    )
    parser.add_argument(
        "--review", type=int, metavar="N", help="also copy the N pictures most worth a label to OUT.review"
    )
    parser.add_argument(
        "--review-for",
        choices=("label-studio", "cvat", "fiftyone"),
        help="also write a document of these N pictures that this tool imports; `convoy run` takes its export",
    )
    parser.add_argument(
        "--tag",
        choices=("xmp", "sidecar"),
        help="also write labels as XMP into copies of the pictures in OUT.tagged",
    )
    parser.add_argument(
        "--executor",
        metavar="dask://HOST:PORT",
        help="a Dask scheduler whose workers decode the pictures and run the network",
    )
    parser.add_argument("--in-place", action="store_true", help="tag the pictures themselves, not copies")
    parser.add_argument(
        "--engine",
        choices=("auto", "openvino", "onnxruntime", "pytorch"),
        help="what runs the network; without it, as params.yaml says",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "int8"),
        help="a faster one is used only if it agrees with fp32 on validation pictures",
    )
    add_json_option(parser, "predict")


def add_monitor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy monitor`."""
    parser.add_argument("source", help="pictures, or a table that `convoy predict` wrote; it is only read")
    parser.add_argument(
        "--pictures",
        metavar="SOURCE",
        help="the pictures of a table; without them, only its predictions are compared",
    )
    parser.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    parser.add_argument("--all", action="store_true", help="include pictures that were compared before")


def add_up_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy up`."""
    parser.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT", help="default %(default)s")
    parser.add_argument("--prefect-port", type=int, default=4200, metavar="PORT", help="default %(default)s")


def add_preset_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy preset`."""
    parser.add_argument(
        "name", metavar="NAME", help="fast, default, best, finetune, scratch, or presets/NAME.yaml of your own"
    )


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy sweep`."""
    parser.add_argument(
        "--trials", type=int, metavar="N", help="trainings in total; without it, as params.yaml says"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="MINUTES", help="start no further training after this time"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="trainings at the same time")


def add_kernels_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy kernels`."""
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a picture; it is only read")
    parser.add_argument(
        "--kernel",
        required=True,
        metavar="KERNEL",
        help="sharpen, edge, blur, emboss, outline, identity; or k x k numbers, k odd, row by row in quotes: "
        "'0 -1 0 -1 5 -1 0 -1 0'; or a folder of files NAME.txt with such numbers, drawn side by side",
    )
    parser.add_argument(
        "--stride", type=int, default=1, metavar="N", help="px from one position to the next; default 1"
    )
    parser.add_argument("--padding", type=int, default=0, metavar="N", help="px of zeros on each side; default 0")
    parser.add_argument(
        "--pool", choices=["max", "avg", "sum"], help="also pool the rectified map over windows of 2 x 2"
    )
    parser.add_argument(
        "--colour", action="store_true", help="filter red, green and blue each; default: the grey picture"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: IMAGE.KERNEL.png here")


def add_completion_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy completion`."""
    parser.add_argument("shell", choices=completion.SHELLS, help="the shell that reads the script")


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convoy status`."""
    add_json_option(parser, "status")
