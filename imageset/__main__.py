"""`python -m imageset normalize`: the stage that makes data/normalized out of data/raw."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from imageset.exceptions import EXIT_STATUS, UserError
from imageset.executors import factory
from imageset.executors.base import BaseExecutor
from imageset.executors.process_pool import SINGLE_THREAD_ENV, ProcessExecutor
from imageset.normalize.worker_modules import WORKER_MODULES
from imageset.params import load_section
from imageset.utils.memory import give_freed_memory_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _build_parser().parse_args(arguments)
    try:
        print(options.run(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_STATUS
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imageset", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    normalize = commands.add_parser("normalize", help="make the normalized dataset out of the raw data")
    normalize.add_argument("--raw", default="data/raw", metavar="FOLDER")
    normalize.add_argument("--out", default="data/normalized", metavar="FOLDER")
    normalize.add_argument("--params", default="params.yaml", metavar="FILE")
    normalize.add_argument("--workers", type=int, default=None, metavar="N", help="processes; one a processor")
    normalize.add_argument("--executor", default=None, metavar="WHERE", help=factory.EXECUTOR_HELP)
    normalize.set_defaults(run=_run_normalize)
    return parser


def _run_normalize(options: argparse.Namespace) -> str:
    with factory.open_executor(options.executor, options.workers, WORKER_MODULES) as crew:
        if isinstance(crew, ProcessExecutor):
            _load_kernel_early(crew, options)
        # Imported only now, while the workers load what they need.
        from imageset.normalize.params import read_normalize_params
        from imageset.normalize.stage import normalize
        from imageset.utils.progress import Progress

        params = read_normalize_params(options.params)
        with Progress("normalize") as progress:
            summary = normalize(options.raw, options.out, params, progress=progress, executor=crew)
    return "\n".join([summary.describe(), *(f"warning: {warning}" for warning in summary.warnings)])


def _load_kernel_early(crew: BaseExecutor, options: argparse.Namespace) -> None:
    """Where the first of the raw pictures is a large JPEG, most are: let the workers load what resizes them now.

    That takes a quarter of a second, which need not pass after the parent has read what there is. Nothing but time
    depends on it.
    """
    from imageset.decoding.jpeg import read_jpeg_header
    from imageset.decoding.resize import RESIZE_MODES, load_resize_kernel
    from imageset.decoding.spec import AUTO_SIZES_PX

    try:
        params = load_section(options.params, "normalize")
        with (Path(options.raw) / "shard-00000.tar").open("rb") as file:
            file.seek(512)  # behind the header of the first member
            header = read_jpeg_header(file.read(1 << 16))
    except (UserError, OSError, IndexError):  # others will say so
        return
    size = params.get("size_px")
    largest = size if isinstance(size, int) else AUTO_SIZES_PX[-1]
    if header and max(header.width, header.height) > largest and params.get("interpolation") in RESIZE_MODES:
        for _ in range(crew.num_workers):
            crew.submit(load_resize_kernel)


class _NoPandas:
    """pyarrow imports pandas, in half a second, to ask whether our lists are its series; here nothing uses it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


if __name__ == "__main__":  # not where `main` is called: this is for a whole process
    sys.meta_path.insert(0, _NoPandas())
    give_freed_memory_back()
    os.environ.update(SINGLE_THREAD_ENV)  # before numpy is imported
    status = main()
    sys.stdout.flush()
    os._exit(status)  # all is on the disk; to take the interpreter apart in good order would cost 50 ms
