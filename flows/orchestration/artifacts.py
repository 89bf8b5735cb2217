"""Create Markdown artifacts for a flow run. A failure to create one never fails the run."""

from __future__ import annotations

from flows.notifications import console
from flows.orchestration import prefect_api
from imageset.rejections import escape_control_characters

logger = console.get_logger(__name__)


def publish_markdown(page: str, key: str, title: str) -> None:
    """Create a Markdown artifact of the current flow run; skip it if the Prefect server is gone."""
    from prefect.artifacts import create_markdown_artifact

    with prefect_api.tolerate_lost_server(f"the page {key!r}"):
        create_markdown_artifact(page, key=key, description=title)


def escape_cell(text: str) -> str:
    """Escape text for a cell of a Markdown table, so that nothing in it is markup."""
    return (
        escape_control_characters(text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "\\|")
        .replace("`", "\\`")
    )
