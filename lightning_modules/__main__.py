"""`python -m lightning_modules fit|test|explain`: the stages that train, test and look into a network."""

import argparse
import sys
from pathlib import Path

from imageset.exceptions import UserError


def main(argv: list[str] | None = None) -> int:
    """Run one stage in the current folder; 2 and one line on stderr where a user's input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m lightning_modules", description=__doc__)
    parser.add_argument("stage", choices=["fit", "test", "explain"],
                        help="fit: train; test: measure on the test split; explain: what it sees")  # fmt: skip
    parser.add_argument(
        "--find", choices=["lr", "batch_size"], help="fit: only search for a good value, and print it"
    )
    arguments = parser.parse_args(argv)
    try:
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
