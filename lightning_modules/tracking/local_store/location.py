"""The place of a project's own MLflow store: mlflow.db, mlartifacts/ and, beside them, Prefect's database."""

from pathlib import Path

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
SQLITE = "sqlite:///"
EXPERIMENTS = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` copy a repository to


def find_shared_folder(project: Path) -> Path:
    """Return the folder that holds the MLflow store and Prefect's database of a project.

    It is the top of the project's git repository, so that all projects of a repository share one store. A project
    that has an mlflow.db itself keeps it, and a project outside git has its own.
    """
    project = find_original_project(project)
    if (project / DATABASE).exists():
        return project
    return find_git_top(project) or project


def find_original_project(project: Path) -> Path:
    """Return the project that DVC copied if `project` is a temporary copy for an experiment, else `project`.

    What a stage keeps for later must lie in the original: DVC removes the copy when the experiment ends.
    """
    project = project.resolve()
    for folder in project.parents:
        if folder.parts[-len(EXPERIMENTS) :] == EXPERIMENTS:
            return _find_in_original(project, folder)
    return project


def find_cache(project: Path) -> Path:
    """Return the folder `.cache` of the original project: features, unfinished trainings and queues."""
    return find_original_project(project) / ".cache"


def _find_in_original(project: Path, experiments: Path) -> Path:
    """Return the folder of the original repository that `project`, below `experiments`, was copied from."""
    copied_top, owner = find_git_top(project), experiments.parents[len(EXPERIMENTS) - 1]
    if copied_top is None or not copied_top.is_relative_to(experiments):  # the copy is incomplete
        return owner
    return (find_git_top(owner) or owner) / project.relative_to(copied_top)


def find_git_top(folder: Path) -> Path | None:
    """Return the nearest folder at or above `folder` that is a git repository or worktree; None outside git."""
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)


def get_database_path(uri: str) -> Path | None:
    """Return the file of a tracking URI `sqlite:///PATH`, or None for any other URI."""
    path = uri.partition("?")[0].removeprefix(SQLITE)
    return Path(path).resolve() if uri.startswith(SQLITE) and path else None
