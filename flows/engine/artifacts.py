"""What a run leaves to look at in Prefect's pages; never the system of record."""

import base64
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from soapworks.flows.display.tables import LAYER_HEADINGS, cell, layer_cells
from soapworks.storage_schemas.layout.layer_summary import HEADINGS, LayerSummary
from soapworks.storage_schemas.locations.location import Location

logger = logging.getLogger(__name__)


def publish_summary(layers: Sequence[LayerSummary]) -> None:
    """Show the summary as a table of the run; a failure to do so is a warning, not an error."""
    table = [
        {heading: cell(name, getattr(layer, name)) for name, heading in HEADINGS.items()}
        for layer in layers
    ]
    with _failing_softly("the summary"):
        create_table_artifact(table, key="soapworks-scores", description="Scores by layer")


def publish_pictures(checkpoint: str, layer: str, png: bytes, page: str) -> None:
    """Show a picture of a layer's top components; a failure to do so is a warning.

    Parameters
    ----------
    checkpoint, layer
        Whose components.
    png
        The picture.
    page
        Name of the checkpoint's report.
    """
    with _failing_softly("the picture of the top components"):
        # An image artifact would show its whole address besides, across the page.
        create_markdown_artifact(
            f"![components](data:image/png;base64,{base64.b64encode(png).decode()})",
            key=_key("components", page),
            description=f"Where the top components of {_code(f'{checkpoint} · {layer}')} respond",
        )


def publish_report(
    layers: Sequence[LayerSummary], place: Location, *, reports_url: str | None = None
) -> None:
    """Show a checkpoint's scores and where its report is; a failure to do so is a warning.

    Parameters
    ----------
    layers
        The checkpoint's summaries.
    place
        The report.
    reports_url
        Address of the reports' folder for a browser, if it has one: then there is a link too.
    """
    checkpoint = layers[0].checkpoint if layers else ""
    with _failing_softly("the report"):
        if reports_url:
            create_link_artifact(
                f"{reports_url.rstrip('/')}/{place.name}",
                link_text="report",
                key=_key("link", place.name),
                description=f"Report of {_code(checkpoint)}",
            )
        create_markdown_artifact(
            scores_in_markdown(layers, place),
            key=_key("report", place.name),
            description=f"Scores of {_code(checkpoint)}, and its report",
        )


def scores_in_markdown(layers: Sequence[LayerSummary], place: Location) -> str:
    """Return a checkpoint's summary, and where its report is, as markdown."""
    lines = [
        f"Report: {_code(place.url)}",
        "",
        f"| {' | '.join(LAYER_HEADINGS.values())} |",
        "| --- " + "| ---: " * (len(LAYER_HEADINGS) - 1) + "|",
    ]
    for layer in layers:
        cells = (text.replace("|", "/") for text in layer_cells(layer))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def publish_text(key: str, heading: str, lines: Sequence[str]) -> None:
    """Show lines of text as they are; a failure to do so is a warning, not an error."""
    # A fence that no line can close: names of files are no markup.
    text = "\n".join([heading, "", "~~~~~~~~", *lines, "~~~~~~~~"])
    with _failing_softly(key):
        create_markdown_artifact(text, key=key)


@contextmanager
def _failing_softly(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        logger.warning("%s could not be shown in Prefect: %s", what, error)


def _key(kind: str, page: str) -> str:
    """Return an artifact's key: its versions are those of one report."""
    name = page.rpartition(".")[0] or page
    return f"soapworks-{kind}-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _code(text: str) -> str:
    """Return a name as markdown shows it as it is."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
