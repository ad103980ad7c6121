"""What a run leaves to look at in Prefect's pages; never the system of record."""

import logging
from typing import Any

from prefect.artifacts import create_table_artifact

from tasks.summarize import COLUMNS

logger = logging.getLogger(__name__)


def publish_summary(rows: list[dict[str, Any]]) -> None:
    """Show the summary as a table of the run; a failure to do so is a warning, not an error."""
    table = [{title: row.get(name) for name, title in COLUMNS.items()} for row in rows]
    try:
        create_table_artifact(table, key="soapworks-scores", description="Scores by layer")
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        logger.warning("the summary could not be shown in Prefect: %s", error)
