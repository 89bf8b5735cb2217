"""Command line of the stages that train, test and explain a network."""

import argparse
import sys
from pathlib import Path

from imageset.exceptions import UserError
from imageset.params import check_convoy_version


def main(argv: list[str] | None = None) -> int:
    """Run a stage in the current folder.

    Returns:
        The exit status: 2, with a line on stderr, after a UserError; 130 after Ctrl-C; else 0.
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
    try:
        check_convoy_version(Path.cwd() / "params.yaml")
        if arguments.stage == "fit" and arguments.find:
            from lightning_modules.tuner import tune

            tune(Path.cwd(), arguments.find)
        elif arguments.stage == "fit":
            from lightning_modules.training.stage import fit

            fit(Path.cwd())
        elif arguments.stage == "test":
            from lightning_modules.evaluation.stage import evaluate

            evaluate(Path.cwd())
        else:
            from lightning_modules.explain.stage import explain

            explain(Path.cwd())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
