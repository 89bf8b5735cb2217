"""The flows that a deployment runs; a project's prefect.yaml names them as `convoy.deployments.pipeline`.

Prefect puts the folder of a deployment before all others on sys.path, and on PYTHONPATH of the processes that it
starts. There a project's own folder flows/, imageset/ or lightning_modules/ would take the place of Convoy's
package. So importing this module moves that folder to the end first; modules of the project are still found.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _move_to_end(folder: Path) -> None:
    """Move a folder to the end of sys.path, and take it off PYTHONPATH; but for the folder of Convoy itself."""
    if folder == Path(__file__).resolve().parents[1]:
        return
    entries = [entry for entry in sys.path if Path(entry).resolve() == folder]
    sys.path[:] = [entry for entry in sys.path if entry not in entries] + entries
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [entry for entry in python_path if entry and Path(entry).resolve() != folder]
    if len(others) < len(python_path):
        os.environ["PYTHONPATH"] = os.pathsep.join(others)


_move_to_end(Path.cwd().resolve())

from flows.full_check import full_check  # noqa: E402
from flows.inbox import inbox  # noqa: E402
from flows.pipeline import pipeline  # noqa: E402

__all__ = ["full_check", "inbox", "pipeline"]
