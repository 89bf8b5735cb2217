"""The commands of `convoy`: for each one its options, the function it calls, and one row in `COMMANDS`.

The functions import what they need when they run, so that `convoy --help` loads nothing heavy. Wrong arguments
are reported before a Prefect server is started.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli import completion, options
from flows.cli.parser import COMMAND, CommandParser, add_common_options, add_verbosity_options
from flows.cli.retention import forget, gc
from flows.notifications import console
from flows.project.project import Project
from flows.reports.json_output import keep_stdout_for_json, print_result
from imageset.executors import factory
from imageset.utils import timestamps
from imageset.utils.text import escape_lines
from imageset.utils.url_credentials import mask_url
from lightning_modules.project_code.modules import make_importable

if TYPE_CHECKING:
    from flows.promote import PromoteResult

PROJECT_EPILOG = (
    "convoy works in the project at or above the current folder; `convoy init` makes one. "
    "`convoy -C DIR COMMAND` runs as if started in DIR."
)


@dataclass(frozen=True)
class Command:
    """One command of `convoy`.

    Attributes:
        name: as it is typed.
        help: its line in `convoy --help`.
        run: called with the parsed arguments; it returns the exit status, or None for 0.
        add_options: adds its arguments to its parser.
        needs_project: whether it works only in a project's folder.
        works_anywhere: whether it works in any other folder, too, with these arguments; it then has no project.
        works_in_repository: whether it works at the top of a git repository for all projects in it, too.
        read_only: whether it changes nothing that another command could be working on; runs whose process died are
            then left for the next command.
        starts_server: whether it starts a Prefect server itself, which then closes the runs whose process died.
        epilog: the last line of its own help.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int | None]
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    needs_project: bool = True
    works_anywhere: Callable[[argparse.Namespace], bool] = lambda arguments: False
    works_in_repository: bool = False
    read_only: bool = False
    starts_server: bool = False
    epilog: str = PROJECT_EPILOG


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line from `COMMANDS`."""
    parser = CommandParser(
        prog="convoy",
        description="From a folder of labelled pictures to a registered CNN, and from there to predictions.",
        epilog=PROJECT_EPILOG,
    )
    parser.add_argument("-C", dest="directory", metavar="DIR", help="run as if started in DIR, as `git -C` does")
    add_common_options(parser)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar=COMMAND)
    for command in COMMANDS.values():
        description = f"{command.help[0].upper()}{command.help[1:]}."
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=description, epilog=command.epilog
        )
        add_verbosity_options(subparser)
        command.add_options(subparser)
    return parser


def run_command(arguments: argparse.Namespace) -> int:
    """Run the command that was parsed; return its exit status.

    Raises:
        UserError: what the command reports to its user.
        ConnectionError: a server or a remote source does not answer.
    """
    with keep_stdout_for_json(arguments):
        return _run_in_place(arguments)


def _run_in_place(arguments: argparse.Namespace) -> int:
    """Run the command in its folder and its project."""
    from flows.cli import location

    command = COMMANDS[arguments.command]
    location.enter_directory(arguments.directory)
    arguments.directory = None  # entered
    if sources := getattr(arguments, "sources", None):
        arguments.sources = [mask_url(source) for source in sources]
        arguments.source = arguments.sources[0]  # the one that messages and records name
    console.attach_console(arguments.verbosity)
    if not command.needs_project:
        return command.run(arguments) or 0
    works_without = command.works_anywhere(arguments) or command.works_in_repository
    if Project.find_or_none() is None and works_without:
        arguments.project = None
    else:
        arguments.project = location.enter_project(arguments)
    if arguments.project is not None:
        make_importable(arguments.project.folder)  # for models of before bundles held the project's modules
    if executor := getattr(arguments, "executor", None):  # the stage that DVC starts reads the variable
        os.environ[factory.EXECUTOR_VARIABLE] = factory.check_executor_name(executor)
    if getattr(arguments, "source", None):
        arguments.source = mask_url(arguments.source)  # before Prefect stores it as a flow's parameter
    if arguments.project is None or command.read_only or getattr(arguments, "dry_run", False):
        return command.run(arguments) or 0
    return _run_recorded(command, arguments)


def _run_recorded(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command under a process record, and close the runs of commands whose process died."""
    from flows.orchestration import crash_recovery

    words = ("convoy", command.name, getattr(arguments, "source", None))
    with crash_recovery.record_process(arguments.project, " ".join(word for word in words if word)):
        if not command.starts_server and command.name != "rollback":  # a rollback does not wait for a server first
            _close_crashed_runs(arguments.project)
        try:
            status = command.run(arguments) or 0
        except Exception:
            _close_crashed_runs(arguments.project)
            raise
        _close_crashed_runs(arguments.project)
        return status


def _close_crashed_runs(project: Project) -> None:
    """Start a Prefect server if one is needed to close runs of the project's own database whose process died."""
    from flows.orchestration import crash_recovery
    from flows.orchestration.prefect_server import use_prefect_server

    if crash_recovery.needs_prefect_server(project):
        with use_prefect_server(project):
            pass


# ---- demo, run, ingest, check -----------------------------------------------------------------------


def _run_init(arguments: argparse.Namespace) -> None:
    from flows.cli.init import init_project

    _print_text(init_project(Path(arguments.folder), arguments.name, arguments.commit))


def _run_upgrade(arguments: argparse.Namespace) -> None:
    from flows.cli.upgrade import upgrade_project

    _print_text(upgrade_project(arguments.project, arguments.dry_run))


def _run_demo(arguments: argparse.Namespace) -> int | None:
    from flows.cli.demo import init_demo_project, run_demo

    if arguments.project is None:
        _print_text(init_demo_project(Path.cwd()))
        return run_command(arguments)  # now in a project
    _print_text(run_demo(arguments.project))
    return None


def _run_pipeline(arguments: argparse.Namespace) -> None:
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.versioning.source_check import check_source

    given = _get_ingest_options(arguments)
    check_source(arguments.source, arguments.project, **given)
    with arguments.project.lock(), use_prefect_server(arguments.project):
        from flows.pipeline import pipeline

        decision = pipeline(arguments.source, **given)
    _print_text(_summarize_run(arguments.project, decision))


def _summarize_run(project: Project, decision: PromoteResult) -> str:
    from flows.promotion.model_registry import connect_registry, find_champion_version
    from flows.reports.run_summary import summarize_run

    champion = None
    if not decision.serves:
        champion = find_champion_version(connect_registry(project), decision.version.name)
    return summarize_run(project, str(decision), champion, nothing_serves=champion is None and not decision.serves)


def _run_ingest(arguments: argparse.Namespace) -> None:
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.versioning.source_check import check_source

    given = _get_ingest_options(arguments)
    check_source(arguments.source, arguments.project, **given)
    with arguments.project.lock(), use_prefect_server(arguments.project):
        from flows.ingest import ingest

        ingest(arguments.source, **given)


def _get_ingest_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("replace_source", "labeled_by", "resolve")}


def _run_check(arguments: argparse.Namespace) -> int:
    from imageset.utils.memory import give_freed_memory_back

    give_freed_memory_back()
    from flows.versioning.source_check import report_source

    report = report_source(arguments.source, arguments.project, arguments.report)
    print_result(report, arguments)
    return 1 if report.stop_reason else 0


# ---- promote, rollback ------------------------------------------------------------------------------


def _run_promote(arguments: argparse.Namespace) -> None:
    if arguments.power:
        from flows.promotion.power import report_power

        _print_text(report_power(arguments.project))
        return
    if arguments.dry_run:
        from flows.promote import dry_run_promotion

        _print_text(dry_run_promotion(arguments.run_id))
        return
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.promotion.model_registry import check_promotable_run
    from flows.versioning.restoration import open_registry

    if arguments.run_id:
        open_registry(arguments.project, arguments.run_id)
        check_promotable_run(arguments.run_id, arguments.project)
    with use_prefect_server(arguments.project):
        from flows.promote import promote

        _print_text(promote(arguments.run_id, arguments.override))


def _run_rollback(arguments: argparse.Namespace) -> None:
    asked_at = timestamps.format_utc_now()  # before the imports, which take seconds
    from flows.promotion.rollback import rollback
    from flows.versioning.restoration import open_registry

    open_registry(arguments.project)
    model = arguments.model or arguments.project.read_dataset_name()
    _print_text(rollback(arguments.project, model, arguments.reason, asked_at))


# ---- reports ----------------------------------------------------------------------------------------


def _run_verify(arguments: argparse.Namespace) -> int:
    from flows.reports.reproduction import verify_run

    result = verify_run(arguments.project, arguments.run_id, arguments.tolerance)
    _print_text(result)
    return 0 if result.agrees else 1


def _run_compare(arguments: argparse.Namespace) -> None:
    from flows.reports.run_comparison import compare_runs

    result = compare_runs(arguments.project, arguments.first_run_id, arguments.second_run_id, arguments.page)
    print_result(result, arguments)


def _run_history(arguments: argparse.Namespace) -> None:
    from flows.reports.history import read_history

    print_result(read_history(arguments.project, arguments.model, arguments.at), arguments)


def _run_status(arguments: argparse.Namespace) -> None:
    if arguments.project is None:
        from flows.cli.location import require_repository_projects
        from flows.reports.project_list import ProjectListResult

        print_result(ProjectListResult(require_repository_projects()), arguments)
        return
    from flows.reports.status import read_status

    print_result(read_status(arguments.project), arguments)


def _run_sync(arguments: argparse.Namespace) -> None:
    from lightning_modules.tracking.offline_queue import sync_queues

    _print_text(sync_queues(arguments.project.folder))


def _run_explain(arguments: argparse.Namespace) -> None:
    from flows.reports.explanation import write_explanation

    _print_text(write_explanation(arguments.image, arguments.run, arguments.out, arguments.project))


# ---- predict, monitor -------------------------------------------------------------------------------


def _run_predict(arguments: argparse.Namespace) -> None:
    from flows.labeling.review import check_review
    from flows.labeling.tagging import check_tag_options
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.prediction.options import PredictOptions
    from flows.prediction.table_writer import check_prediction

    source = arguments.source if len(arguments.sources) == 1 else arguments.sources
    check_prediction(source, arguments.out)
    names = ("model", "new_only", "engine", "precision", "review", "review_for", "tag", "in_place", "executor")
    options = {name: getattr(arguments, name) for name in names}
    given = PredictOptions(source, Path(arguments.out), **options)
    check_tag_options(given.tag, given.in_place)
    check_review(given.review, given.review_for, given.review_folder)
    if arguments.project is None:
        from flows.predict import predict_without_project

        print_result(predict_without_project(given), arguments)
        return
    with use_prefect_server(arguments.project):
        from flows.predict import predict

        print_result(predict(source, arguments.out, **options), arguments)


def _run_monitor(arguments: argparse.Namespace) -> None:
    from flows.monitoring.drift_check import check_monitor
    from flows.orchestration.prefect_server import use_prefect_server

    check_monitor(arguments.source, arguments.pictures)
    arguments.project.load_params("monitor")
    with use_prefect_server(arguments.project):
        from flows.monitor import monitor

        _print_text(monitor(arguments.source, arguments.pictures, arguments.model, arguments.all))


# ---- up, preset, sweep, kernels ---------------------------------------------------------------------


def _run_up(arguments: argparse.Namespace) -> None:
    from flows.cli.location import require_repository_projects
    from flows.cli.up import run_servers, select_sharing_projects

    run_servers(
        select_sharing_projects(arguments.project, require_repository_projects()),
        arguments.mlflow_port,
        arguments.prefect_port,
        lambda text: print(text, flush=True),
    )


def _run_preset(arguments: argparse.Namespace) -> None:
    from flows.project.presets import apply_preset

    _print_text(apply_preset(arguments.name, arguments.project))


def _run_sweep(arguments: argparse.Namespace) -> None:
    from flows.orchestration.prefect_server import use_prefect_server
    from flows.sweeps.study import check_sweep

    check_sweep(arguments.project, arguments.trials, arguments.processes)
    with arguments.project.lock(), use_prefect_server(arguments.project):
        from flows.sweep import sweep

        _print_text(sweep(arguments.trials, arguments.timeout, arguments.processes))


def _run_kernels(arguments: argparse.Namespace) -> None:
    from lightning_modules.kernels.page import write_kernel_page

    line = write_kernel_page(
        arguments.image, arguments.kernel, arguments.stride, arguments.padding, arguments.out,
        arguments.pool, arguments.colour,
    )  # fmt: skip
    _print_text(line)


def _run_completion(arguments: argparse.Namespace) -> None:
    print(completion.format_completion(build_parser(), arguments.shell))


_ROWS = (
    Command(
        "init",
        "make a project in a folder: params.yaml, dvc.yaml, prefect.yaml, git and DVC; nothing is overwritten",
        _run_init,
        options.add_init_options,
        needs_project=False,
        epilog="works in any folder.",
    ),
    Command(
        "demo",
        "run everything on handwritten digits that need no download, in a project or in an empty folder",
        _run_demo,
        works_anywhere=lambda arguments: True,
        starts_server=True,
        epilog="works in a project, and in an empty folder, where it makes one.",
    ),
    Command(
        "run",
        "ingest a folder, train, and promote the model if it is better",
        _run_pipeline,
        options.add_run_options,
        starts_server=True,
    ),
    Command(
        "ingest",
        "only read a source, or the labels of a label table, into data/raw and version it",
        _run_ingest,
        options.add_source_options,
        starts_server=True,
    ),
    Command(
        "check",
        "read a source as `run` would, report what is wrong with it, and write nothing",
        _run_check,
        options.add_check_options,
        read_only=True,
    ),
    Command(
        "promote",
        "only register a trained model, and promote it if it is better",
        _run_promote,
        options.add_promote_options,
        starts_server=True,
    ),
    Command("rollback", "let the previous version serve again", _run_rollback, options.add_rollback_options),
    Command(
        "verify",
        "train a run again from its commit, and report whether its metrics agree",
        _run_verify,
        options.add_verify_options,
    ),
    Command(
        "compare",
        "show two runs side by side: parameters, data, metrics, pictures that only one predicts correctly",
        _run_compare,
        options.add_compare_options,
    ),
    Command(
        "history",
        "list every decision about which version serves, or what served on a date",
        _run_history,
        options.add_history_options,
        read_only=True,
    ),
    Command(
        "status",
        "report what serves since when and on which data, the last run, the next one, and open problems",
        _run_status,
        options.add_status_options,
        works_in_repository=True,
        read_only=True,
    ),
    Command(
        "upgrade",
        "let the project use the version of Convoy that is installed, and say which stages run again",
        _run_upgrade,
        options.add_upgrade_options,
    ),
    Command(
        "forget",
        "remove pictures, and what was made of them, from data, caches, earlier versions and MLflow",
        forget.run,
        forget.add_options,
        epilog=forget.EPILOG,
    ),
    Command(
        "gc",
        "remove what no serving version, branch or tag needs, in DVC, MLflow and the caches",
        gc.run,
        gc.add_options,
        epilog=gc.EPILOG,
    ),
    Command("sync", "send what waited while MLflow's server was unavailable", _run_sync),
    Command(
        "predict",
        "tag pictures with the champion, or before anything was trained with --model imagenet",
        _run_predict,
        options.add_predict_options,
        works_anywhere=lambda arguments: arguments.model == "imagenet",
        starts_server=True,
    ),
    Command(
        "monitor",
        "compare pictures with the training data of the champion; retrain if the policy says so",
        _run_monitor,
        options.add_monitor_options,
        starts_server=True,
    ),
    Command(
        "up",
        "run MLflow's UI, Prefect's server, the schedules and a worker, until Ctrl-C",
        _run_up,
        options.add_up_options,
        works_in_repository=True,
        starts_server=True,
    ),
    Command(
        "explain",
        "show on one page what the trained network sees in a picture",
        _run_explain,
        options.add_explain_options,
    ),
    Command(
        "preset",
        "write the values of a preset (fast, default, best, finetune, scratch or your own) into params.yaml",
        _run_preset,
        options.add_preset_options,
        read_only=True,
    ),
    Command(
        "sweep",
        "try other values of `train`, and write the best into params.yaml",
        _run_sweep,
        options.add_sweep_options,
        starts_server=True,
    ),
    Command(
        "kernels",
        "show what filters do to a picture: picture, matrix, feature map and pooling in one PNG",
        _run_kernels,
        options.add_kernels_options,
        needs_project=False,
        epilog="works in any folder.",
    ),
    Command(
        "completion",
        "print a script that completes commands, options and paths in a shell",
        _run_completion,
        options.add_completion_options,
        needs_project=False,
        epilog=completion.EPILOG,
    ),
)
COMMANDS = {command.name: command for command in _ROWS}


def _print_text(result: object) -> None:
    """Print a result; control characters in the names of files and classes are written as escapes."""
    print(escape_lines(str(result)), flush=True)
