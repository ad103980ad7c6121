"""What a run leaves to look at in Prefect's pages; never the system of record."""

import logging
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.summarize import COLUMNS

logger = logging.getLogger(__name__)


def publish_summary(rows: list[dict[str, Any]]) -> None:
    """Show the summary as a table of the run; a failure to do so is a warning, not an error."""
    table = [{title: row.get(name) for name, title in COLUMNS.items()} for row in rows]
    try:
        create_table_artifact(table, key="soapworks-scores", description="Scores by layer")
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        logger.warning("the summary could not be shown in Prefect: %s", error)


def publish_text(key: str, heading: str, lines: Sequence[str]) -> None:
    """Show lines of text as they are; a failure to do so is a warning, not an error."""
    # A fence that no line can close: names of files are no markup.
    text = "\n".join([heading, "", "~~~~~~~~", *lines, "~~~~~~~~"])
    try:
        create_markdown_artifact(text, key=key)
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        logger.warning("%s could not be shown in Prefect: %s", key, error)
