"""DVC's cache and its remotes: list, read and remove their objects, through DVC's own API.

An object is named by the MD5 of its content; the list of a folder's files is one, too, and ends in ".dir".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from flows.project.exceptions import ProjectBusy
from flows.project.project import Project
from flows.versioning import dvc_repo
from imageset.exceptions import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

FOLDER_SUFFIX = ".dir"
REMOTE_SECTION = "remote "


@dataclass(frozen=True)
class ObjectStore:
    """The cache or a remote.

    Attributes:
        name: for messages.
        odb: DVC's object database.
        is_cache: whether it is the cache.
    """

    name: str
    odb: Any
    is_cache: bool

    @cached_property
    def object_ids(self) -> frozenset[str]:
        """The ids of all objects, as they were at the first look."""
        with suppress(FileNotFoundError):  # a cache or remote that nothing was ever sent to
            return frozenset(self.odb.all())
        return frozenset()

    def open(self, object_id: str) -> BinaryIO:
        """Open an object for reading.

        Raises:
            OSError: it is not there.
        """
        file: BinaryIO = self.odb.fs.open(self.odb.oid_to_path(object_id), "rb")
        return file

    def read(self, object_id: str, start: int = 0, size: int = -1) -> bytes:
        """Return the bytes of an object, or a part of them; the errors are those of `open`."""
        with self.open(object_id) as file:
            file.seek(start)
            return file.read(size)

    def measure(self, object_id: str) -> int:
        """Return the size of an object in bytes."""
        return int(self.odb.fs.size(self.odb.oid_to_path(object_id)) or 0)

    def remove(self, object_ids: Collection[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        for object_id in object_ids:
            with suppress(FileNotFoundError):
                self.odb.fs.remove(self.odb.oid_to_path(object_id))
        if object_ids and not self.is_cache:
            from dvc_data.hashfile.db import get_index

            get_index(self.odb).clear()  # of what the remote has, as `dvc gc --cloud` does

    def list_folders(self) -> Iterator[str]:
        """Yield the ids of the lists of folders."""
        yield from (object_id for object_id in sorted(self.object_ids) if object_id.endswith(FOLDER_SUFFIX))


def open_repo(project: Project) -> Repo:
    """Open the project's DVC repository.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it warns of every output that is not there
    try:
        return Repo(str(project.folder))
    except DvcException as error:
        raise UserError(f"DVC: {' '.join(str(error).split())}") from None


@contextmanager
def locked_repo(project: Project) -> Iterator[Repo]:
    """Open the project's DVC repository, and hold DVC's own lock on it.

    Raises:
        ProjectBusy: another DVC command is running.
        UserError: DVC cannot do what is asked for, with its reason.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    repo = open_repo(project)
    try:
        with repo.lock:
            yield repo
    except LockError:
        raise ProjectBusy(f"{project}: another dvc command is running; wait until it ends") from None
    except DvcException as error:
        raise UserError(f"{project}: DVC: {' '.join(str(error).split())[:300]}; nothing was changed") from None


def open_stores(project: Project) -> list[ObjectStore]:
    """Open the cache and all remotes of a project.

    Raises:
        UserError: a remote cannot be opened, with DVC's reason.
    """
    from dvc.exceptions import DvcException

    repo = open_repo(project)
    stores = [ObjectStore("DVC's cache", repo.cache.local, True)]
    for remote in list_remotes(dvc_repo.read_config(project)):
        try:
            stores.append(ObjectStore(f"DVC's remote {remote!r}", repo.cloud.get_remote_odb(remote, "gc"), False))
            stores[-1].object_ids  # noqa: B018  # asks the remote, so that one that is away is named before any work
        except (DvcException, OSError) as error:
            raise UserError(
                f"DVC's remote {remote!r}: {' '.join(str(error).split())[:300]}; make it reachable, or take it "
                f"out with `dvc remote remove {remote}`"
            ) from None
    return stores


def list_remotes(config: ConfigParser) -> list[str]:
    """Return the names of the remotes in DVC's configuration."""
    names = [section.strip("'\"") for section in config.sections()]
    return [name.removeprefix(REMOTE_SECTION).strip("'\"") for name in names if name.startswith(REMOTE_SECTION)]


def find_bytes(stores: Collection[ObjectStore], object_id: str, start: int = 0, size: int = -1) -> bytes | None:
    """Return an object, or a part of it, from the first store that has it; None if none has."""
    for store in stores:
        with suppress(OSError):
            return store.read(object_id, start, size)
    return None


def read_folder(stores: Collection[ObjectStore], object_id: str) -> dict[str, str]:
    """Return the files of a folder: id by path. Empty if the list is nowhere, or damaged."""
    text = find_bytes(stores, object_id)
    try:
        return {str(file["relpath"]): str(file["md5"]) for file in json.loads(text or b"[]")}
    except (ValueError, KeyError, TypeError):
        return {}


def find_cache_folder(stores: Collection[ObjectStore]) -> Path:
    """Return the folder of the cache, which holds files/md5 and runs."""
    return Path(next(store for store in stores if store.is_cache).odb.path).parents[1]
