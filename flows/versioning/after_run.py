"""The section `after_run` of params.yaml: push data with DVC, and commit the files that describe the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect import task

from flows.notifications import console, problems
from flows.project.paths import PARAMS, RAW
from flows.project.project import Project
from flows.promotion.ledger import LEDGER
from flows.versioning import dvc_repo, git_repo
from flows.versioning.forgotten_list import FORGOTTEN
from imageset.exceptions import UserError

logger = console.get_logger(__name__)

COMMITTED_FILES = (
    "dvc.lock",
    "dvc.yaml",
    f"{RAW.as_posix()}.dvc",
    PARAMS.as_posix(),
    "metrics.json",
    LEDGER.as_posix(),
    FORGOTTEN.as_posix(),
)
PUSH_PROBLEM, COMMIT_PROBLEM = "push", "commit"  # names of open problems
PUSH_RETRY_OPTIONS: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [10, 60]}  # remote unavailable


@dataclass(frozen=True)
class PostSteps:
    """The steps after a run.

    Attributes:
        push: whether data is pushed to DVC's default remote.
        branch: that the small files are committed to; None for no commit.
    """

    push: bool
    branch: str | None


def load_post_steps(project: Project) -> PostSteps:
    """Read the steps from params.yaml; called before the work, so that a mistake is reported early.

    Raises:
        UserError: a wrong key or value, a branch that cannot be committed to, or no remote to push to.
    """
    params = project.load_params("after_run")
    push, where = params["push"], f"{PARAMS}: after_run.push"
    if push not in (True, False, "auto"):
        raise UserError(f"{where}: must be true, false or auto, not {push!r}")
    remote = dvc_repo.find_default_remote(project)
    if push is True and remote is None:
        raise UserError(f"{where} is true, but DVC has no default remote; set one: `dvc remote add -d NAME URL`")
    if params["commit"]:
        git_repo.check_branch(project.folder, params["branch"])
    return PostSteps(bool(push and remote), params["branch"] if params["commit"] else None)


def run_post_steps(steps: PostSteps, project: Project, message: str) -> None:
    """Push, then commit, so that a commit never names data that exists only here.

    Raises:
        UserError: the remote or git refuses. The training and the promotion are kept, and the next run tries
            again.
    """
    if steps.push:
        with problems.track_problem(project, PUSH_PROBLEM, "`convoy run` pushes again, and so does `dvc push`"):
            push_data(project)
    else:
        problems.resolve_problem(project, PUSH_PROBLEM)
    if steps.branch:
        with problems.track_problem(project, COMMIT_PROBLEM, "`convoy run` commits and pushes it again"):
            commit(project, steps.branch, message)
    else:
        problems.resolve_problem(project, COMMIT_PROBLEM)


@task(**PUSH_RETRY_OPTIONS)
def push_data(project: Project) -> None:
    """Push the files that DVC tracks to its remote."""
    dvc_repo.push_to_remote(project)
    logger.info("after run: data is pushed to DVC's remote %s", dvc_repo.find_default_remote(project))


@task
def commit(project: Project, branch: str, message: str) -> None:
    """Commit the small files that describe the run to their own branch, and push it to its remote."""
    new_commit = git_repo.commit_files(project.folder, branch, COMMITTED_FILES, message)
    logger.info(
        "after run: %s", f"committed to {branch} as {new_commit[:12]}" if new_commit else f"{branch} is up to date"
    )
    if remote := git_repo.push_branch(project.folder, branch):
        logger.info("after run: %s is pushed to %s", branch, remote)
