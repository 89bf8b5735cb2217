"""The objects of DVC's cache that other projects of the repository need."""

from __future__ import annotations

from flows.project.project import Project, is_project
from flows.retention.stores.object_store import FOLDER_SUFFIX, ObjectStore, locked_repo, read_folder
from flows.versioning.git_repo import list_project_folders, run_git
from lightning_modules.tracking.local_store.location import find_git_top

REFS = ("refs/heads", "refs/tags", "refs/remotes", "refs/stash")


def list_other_projects(project: Project) -> list[Project]:
    """Return the other projects of the git repository, which may share the cache and MLflow's store."""
    own = project.folder.resolve()
    top = find_git_top(own)
    folders = list_project_folders(top) if top else []
    return [Project(folder) for folder in folders if folder.resolve() != own and is_project(folder)]


def find_objects_of_others(project: Project, stores: list[ObjectStore]) -> dict[str, set[str]]:
    """Return the ids of the objects that each other project's present files need, by its folder's name."""
    top = find_git_top(project.folder.resolve())
    return {
        str(other.folder.relative_to(top)) if top else str(other.folder): find_used_objects(other, stores)
        for other in list_other_projects(project)
    }


def find_used_objects(project: Project, stores: list[ObjectStore], *, all_refs: bool = False) -> set[str]:
    """Return the ids of the objects that a project needs in its working tree, by DVC's own account.

    Args:
        project: the project.
        stores: where lists of folders are read.
        all_refs: whether all branches and tags of git count, too, also branches that were fetched.

    Raises:
        UserError: DVC cannot read the project, or one of its commits.
    """
    refs = run_git(project.folder, "for-each-ref", "--format=%(objectname)", *REFS, allow_failure=True).split()
    with locked_repo(project) as repo:
        used = repo.used_objs(revs=sorted(set(refs)) if all_refs and refs else None, force=True)
    found = {str(info.value) for objects in used.values() for info in objects}
    return add_files(found, stores)


def add_files(object_ids: set[str], stores: list[ObjectStore]) -> set[str]:
    """Return objects, and the files of those that are lists of folders."""
    folders = [object_id for object_id in object_ids if object_id.endswith(FOLDER_SUFFIX)]
    return object_ids.union(*(read_folder(stores, folder).values() for folder in folders))
