"""Command line of the stages that train, test and explain a network."""

import argparse
import os
import sys
from pathlib import Path

from imageset import termination
from imageset.params import check_convoy_version
from imageset.system_errors import report_error
from lightning_modules.project_code.dvc_deps import check_stage_modules
from lightning_modules.project_code.modules import make_importable


def main(argv: list[str] | None = None) -> int:
    """Run a stage in the current folder.

    Returns:
        The exit status: 2, with a line on stderr, after an error that the user can fix; else 0. A signal ends the
        process here.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_modules", description=__doc__)
    parser.add_argument(
        "stage",
        choices=["fit", "test", "explain"],
        help="fit: train; test: evaluate on the test split; explain: report how the network decides",
    )
    parser.add_argument(
        "--find", choices=["lr", "batch_size"], help="fit: only search for a good value and print it"
    )
    arguments = parser.parse_args(argv)
    termination.listen()
    project = Path.cwd()
    make_importable(project)
    if sys.flags.safe_path:  # python -P, which Lightning does not pass on to the ranks that it starts
        os.environ["PYTHONSAFEPATH"] = "1"
    try:
        check_convoy_version(project / "params.yaml")
        if arguments.stage == "fit" and arguments.find:
            from lightning_modules.tuner import tune

            tune(project, arguments.find)
        elif arguments.stage == "fit":
            with check_stage_modules(project, "train"):
                from lightning_modules.training.stage import fit

                fit(project)
        elif arguments.stage == "test":
            with check_stage_modules(project, "evaluate"):
                from lightning_modules.evaluation.stage import evaluate

                evaluate(project)
        else:
            from lightning_modules.explain.stage import explain

            explain(project)
    except Exception as error:
        return report_error(error)
    finally:
        termination.exit_if_requested()
    return 0


if __name__ == "__main__":
    sys.exit(main())
