"""Artifacts of a run on Prefect's pages: scores, reports, pictures, curves.

They are for the eye; the store has the files that count. So an artifact that cannot be published
is a warning, never an error.
"""

import base64
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from soapworks.flows.display.tables import LAYER_HEADINGS, cell, layer_cells
from soapworks.storage_schemas.layout.layer_summary import HEADINGS, LayerSummary, figure
from soapworks.storage_schemas.layout.names import slug
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.watch.curves import Curve
from soapworks.tasks.watch.state import Watch

logger = logging.getLogger(__name__)

_MAX_STEPS = 50
"""Steps in a curve's table: the newest; the store has all."""

_SHARE = "invariant_variance_share"


def publish_summary(layers: Sequence[LayerSummary]) -> None:
    """Show the summary as a table of the run."""
    table = [
        {heading: cell(name, getattr(layer, name)) for name, heading in HEADINGS.items()}
        for layer in layers
    ]
    with _warn_on_failure("the summary"):
        create_table_artifact(table, key="soapworks-scores", description="Scores by layer")


def publish_pictures(checkpoint: str, layer: str, png: bytes, page: str) -> None:
    """Show a picture of a layer's top components.

    Parameters
    ----------
    checkpoint, layer
        The components are theirs.
    png
        The picture.
    page
        Name of the checkpoint's report.
    """
    with _warn_on_failure("the picture of the top components"):
        # An image artifact would also print its whole address, all over the page.
        create_markdown_artifact(
            f"![components]({_data_url(png, 'png')})",
            key=_key("components", _stem(page)),
            description=f"Where the top components of {_code(f'{checkpoint} · {layer}')} respond",
        )


def publish_report(
    layers: Sequence[LayerSummary], place: Location, *, reports_url: str | None = None
) -> None:
    """Show a checkpoint's scores and the location of its report.

    Parameters
    ----------
    layers
        The checkpoint's summary.
    place
        The report.
    reports_url
        URL under which browsers find the folder of the reports; adds a link.
    """
    checkpoint = layers[0].checkpoint if layers else ""
    with _warn_on_failure("the report"):
        if reports_url:
            create_link_artifact(
                f"{reports_url.rstrip('/')}/{place.name}",
                link_text="report",
                key=_key("link", _stem(place.name)),
                description=f"Report of {_code(checkpoint)}",
            )
        create_markdown_artifact(
            scores_in_markdown(layers, place),
            key=_key("report", _stem(place.name)),
            description=f"Scores of {_code(checkpoint)}, and its report",
        )


def scores_in_markdown(layers: Sequence[LayerSummary], place: Location) -> str:
    """Return a checkpoint's scores and the location of its report."""
    table = map(layer_cells, layers)
    return f"Report: {_code(place.url)}\n\n" + _table(list(LAYER_HEADINGS.values()), table)


def publish_curve(curve: Curve, watch: Watch) -> None:
    """Show a training run's curve and its table, as a version of the same artifacts."""
    name = f"{watch.place.name}-{_stem(curve.picture.name)}"
    svg = curve.picture.name.endswith(".svg")
    with _warn_on_failure(f"the curve of {curve.run}"):
        create_image_artifact(
            _data_url(curve.picture.read_bytes(), "svg+xml" if svg else "png"),
            key=_key(name, "curve"),
            description=f"SI against training: {curve.run} in {watch.folder}",
        )
        create_markdown_artifact(
            curve_in_markdown(curve),
            key=_key(name, "table"),
            description=f"Scores of {curve.run} in {watch.folder}",
        )


def curve_in_markdown(curve: Curve) -> str:
    """Return a training run's scores: a row per step, a column per layer."""
    table = curve.table
    layers = list(dict.fromkeys(table["layer"]))
    rows = []
    for step, of_step in list(table.groupby("step"))[-_MAX_STEPS:]:
        facts = zip(*(of_step[n] for n in ("layer", "top_si", _SHARE)), strict=True)
        by_layer = {layer: f"{figure(si)} ({share:.1%})" for layer, si, share in facts}
        rows.append([str(step), *(by_layer.get(layer, "–") for layer in layers)])
    return (
        f"Highest SI, and in brackets the share of the variance above .75. Picture: "
        f"{_code(str(curve.picture))}, table: {_code(str(curve.csv))}.\n\n"
    ) + _table([table["unit"].iloc[0], *layers], rows)


def publish_text(key: str, heading: str, lines: Sequence[str]) -> None:
    """Show lines of text as they are."""
    # A fence that no line can close: names of files are no markup.
    text = "\n".join([heading, "", "~~~~~~~~", *lines, "~~~~~~~~"])
    with _warn_on_failure(key):
        create_markdown_artifact(text, key=key)


@contextmanager
def _warn_on_failure(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        logger.warning("%s could not be shown in Prefect: %s", what, error)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table whose first column alone is aligned to the left."""
    lines = [list(titles), ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in cells)} |" for cells in lines)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _key(*parts: str) -> str:
    """Return an artifact's key: the same for all versions of one thing."""
    return slug("-".join(("soapworks", *parts)))


def _code(text: str) -> str:
    """Return a name as markdown shows it as it is."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
