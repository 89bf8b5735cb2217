"""Create Markdown artifacts for a flow run. A failure to create one never fails the run."""

from __future__ import annotations

from flows.notifications import console
from flows.orchestration import prefect_api
from imageset.utils.text import escape_markdown

logger = console.get_logger(__name__)


def publish_markdown(page: str, key: str, title: str) -> None:
    """Create a Markdown artifact of the current flow run; skip it if the Prefect server is gone.

    Args:
        page: Markdown.
        key: the key of the artifact in Prefect.
        title: plain text, which Prefect's UI would otherwise read as Markdown.
    """
    from prefect.artifacts import create_markdown_artifact

    with prefect_api.tolerate_lost_server(f"the page {key!r}"):
        create_markdown_artifact(page, key=key, description=escape_markdown(title))
