"""`python -m imageset normalize`: the stage that makes data/normalized out of data/raw."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from imageset import executors
from imageset.errors import EXIT_STATUS, UserError
from imageset.memory import give_freed_memory_back
from imageset.params import load_section
from imageset.pool import ONE_THREAD, Crew, Workers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_STATUS
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imageset", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    normalize = commands.add_parser("normalize", help="make the normalized dataset out of the raw data")
    normalize.add_argument("--raw", default="data/raw", metavar="FOLDER")
    normalize.add_argument("--out", default="data/normalized", metavar="FOLDER")
    normalize.add_argument("--params", default="params.yaml", metavar="FILE")
    normalize.add_argument("--workers", type=int, default=None, metavar="N", help="processes; one a processor")
    normalize.add_argument("--executor", default=None, metavar="WHERE", help=executors.HELP)
    normalize.set_defaults(run=_normalize)
    return parser


def _normalize(options: argparse.Namespace) -> str:
    with executors.open_executor(options.executor, options.workers) as crew:
        if isinstance(crew, Workers):
            _load_kernel_early(crew, options)
        # Imported only now, while the workers load what they need.
        from imageset.normalize import normalize, read_params
        from imageset.progress import Progress

        params = read_params(options.params)
        with Progress("normalize") as progress:
            summary = normalize(options.raw, options.out, params, progress=progress, executor=crew)
    return "\n".join([summary.describe(), *(f"warning: {warning}" for warning in summary.warnings)])


def _load_kernel_early(crew: Crew, options: argparse.Namespace) -> None:
    """Where the first of the raw pictures is a large JPEG, most are: let the workers load what resizes them now.

    That takes a quarter of a second, which need not pass after the parent has read what there is. Nothing but time
    depends on it.
    """
    from imageset.decode import AUTO_SIZES_PX
    from imageset.jpeg import jpeg_header
    from imageset.resize import MODES, load_kernel

    try:
        params = load_section(options.params, "normalize")
        with (Path(options.raw) / "shard-00000.tar").open("rb") as file:
            file.seek(512)  # behind the header of the first member
            header = jpeg_header(file.read(1 << 16))
    except (UserError, OSError, IndexError):  # others will say so
        return
    size = params.get("size_px")
    largest = size if isinstance(size, int) else AUTO_SIZES_PX[-1]
    if header and max(header.width, header.height) > largest and params.get("interpolation") in MODES:
        for _ in range(crew.num):
            crew.submit(load_kernel)


class _NoPandas:
    """pyarrow imports pandas, in half a second, to ask whether our lists are its series; here nothing uses it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


if __name__ == "__main__":  # not where `main` is called: this is for a whole process
    sys.meta_path.insert(0, _NoPandas())
    give_freed_memory_back()
    os.environ.update(ONE_THREAD)  # before numpy is imported
    status = main()
    sys.stdout.flush()
    os._exit(status)  # all is on the disk; to take the interpreter apart in good order would cost 50 ms
