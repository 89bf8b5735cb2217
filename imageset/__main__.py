"""The command `python -m imageset normalize`: the stage that makes data/normalized from data/raw."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from imageset import termination
from imageset.exceptions import UserError
from imageset.executors import factory
from imageset.executors.base import BaseExecutor
from imageset.executors.process_pool import SINGLE_THREAD_ENV, ProcessExecutor
from imageset.normalize.worker_modules import WORKER_MODULES
from imageset.system_errors import report_error
from imageset.utils.file_lock import output_lock
from imageset.utils.memory import give_freed_memory_back
from imageset.utils.text import escape_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _build_parser().parse_args(arguments)
    termination.listen()
    try:
        print(escape_lines(options.run(options)))
    except Exception as error:
        return report_error(error)
    finally:
        termination.exit_if_requested()
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imageset", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    normalize = commands.add_parser("normalize", help="make the normalized dataset from the raw data")
    normalize.add_argument("--raw", default="data/raw", metavar="FOLDER")
    normalize.add_argument("--out", default="data/normalized", metavar="FOLDER")
    normalize.add_argument("--params", default="params.yaml", metavar="FILE")
    normalize.add_argument(
        "--workers", type=int, default=None, metavar="N", help="number of processes (default: one per processor)"
    )
    normalize.add_argument("--executor", default=None, metavar="WHERE", help=factory.EXECUTOR_HELP)
    normalize.set_defaults(run=_run_normalize)
    return parser


def _run_normalize(options: argparse.Namespace) -> str:
    out = Path(options.out)
    with factory.open_executor(options.executor, options.workers, WORKER_MODULES) as executor:
        if isinstance(executor, ProcessExecutor):
            _load_kernel_early(executor, options)
        # Imported here, while the workers load their own modules.
        from imageset.normalize.params import read_normalize_params
        from imageset.normalize.stage import normalize
        from imageset.params import check_convoy_version
        from imageset.utils.progress import Progress

        check_convoy_version(options.params)
        params = read_normalize_params(options.params)
        out.parent.mkdir(parents=True, exist_ok=True)
        with output_lock(out, _print_waiting), Progress("normalize") as progress:
            summary = normalize(options.raw, out, params, progress=progress, executor=executor)
    sequences = [summary.sequences] if summary.sequences else []
    warnings = (f"warning: {warning}" for warning in summary.warnings)
    return "\n".join([summary.describe(), *sequences, *warnings])


def _print_waiting(line: str) -> None:
    print(f"normalize: {line}", flush=True)


def _load_kernel_early(executor: BaseExecutor, options: argparse.Namespace) -> None:
    """Let the workers load the resize kernel now if the first raw image is a large JPEG, since most are then.

    Loading takes a quarter of a second, which passes while the parent process reads the table. The result does not
    depend on it.
    """
    from imageset.decoding.jpeg import read_jpeg_header
    from imageset.decoding.resize import RESIZE_MODES, load_resize_kernel
    from imageset.decoding.spec import AUTO_SIZES_PX
    from imageset.params import load_section  # loads pydantic, which no worker that is forked from here needs

    try:
        params = load_section(options.params, "normalize")
        with (Path(options.raw) / "shard-00000.tar").open("rb") as file:
            file.seek(512)  # after the header of the first member
            header = read_jpeg_header(file.read(1 << 16))
    except (UserError, OSError, IndexError):  # reported later, by the stage itself
        return
    size = params.get("size_px")
    largest = size if isinstance(size, int) else AUTO_SIZES_PX[-1]
    if header and max(header.width, header.height) > largest and params.get("interpolation") in RESIZE_MODES:
        for _ in range(executor.num_workers):
            executor.submit(load_resize_kernel)


class _NoPandas:
    """An import hook that hides pandas.

    pyarrow imports it, in half a second, to check whether lists are pandas series; nothing here uses it.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raise ImportError for pandas; leave every other module to the next finder."""
        if name == "pandas":
            raise ImportError(name)


if __name__ == "__main__":  # not in `main`: these settings are for a whole process
    sys.meta_path.insert(0, _NoPandas())
    give_freed_memory_back()
    os.environ.update(SINGLE_THREAD_ENV)  # before numpy is imported
    status = main()
    sys.stdout.flush()
    os._exit(status)  # everything is on the disk; a regular shutdown of the interpreter takes 50 ms
