"""Pages that a flow leaves in Prefect: artifacts in Markdown. What they tell of is done, be they there or not."""

from __future__ import annotations

from flows import console, server

logger = console.get_logger(__name__)


def publish(page: str, key: str, title: str) -> None:
    """Leave a page with the flow run; a Prefect server that is gone costs the page and nothing else."""
    from prefect.artifacts import create_markdown_artifact

    with server.if_it_is_there(f"the page {key!r}"):
        create_markdown_artifact(page, key=key, description=title)
