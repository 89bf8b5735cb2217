"""Replacement of several files of a folder as one: after a kill, all of them are the former ones or all are new.

The new files are written into a folder of their own, which gets its name by rename when it is complete. Then they
are moved to their places. `finish_replacement` moves those that a killed process did not get to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imageset.utils.atomic_write import replace_folder, sync_file

STAGED_DIR = ".replacement"


@contextmanager
def replace_files(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; on success its files take the places of those of the same names in `folder`."""
    with replace_folder(folder / STAGED_DIR) as staged:
        yield staged
    finish_replacement(folder)


def finish_replacement(folder: Path) -> None:
    """Complete the replacement that a killed process began, if there is one."""
    staged = folder / STAGED_DIR
    if staged.is_dir():
        for file in sorted(staged.iterdir()):
            os.replace(file, folder / file.name)
        sync_file(folder)
        staged.rmdir()
