"""Pages that a flow leaves in Prefect: artifacts in Markdown. What they tell of is done, be they there or not."""

from __future__ import annotations

from flows.notifications import console
from flows.orchestration import prefect_api
from imageset.rejections import escape_control_characters

logger = console.get_logger(__name__)


def publish_markdown(page: str, key: str, title: str) -> None:
    """Leave a page with the flow run; a Prefect server that is gone costs the page and nothing else."""
    from prefect.artifacts import create_markdown_artifact

    with prefect_api.tolerate_lost_server(f"the page {key!r}"):
        create_markdown_artifact(page, key=key, description=title)


def escape_cell(text: str) -> str:
    """Text for a cell of a Markdown table: nothing in it is markup."""
    return (
        escape_control_characters(text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace("|", "\\|")
        .replace("`", "\\`")
    )
