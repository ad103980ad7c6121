"""The curve of a training run in Prefect's pages; the store has the files that count."""

import base64
import logging
import re

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from soapworks.tasks.watch.curves import Curve
from soapworks.tasks.watch.state import Watch

logger = logging.getLogger(__name__)

_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
_MOST_STEPS = 50
"""Steps in the table: the newest; the store has all."""


def publish_curve(curve: Curve, watch: Watch) -> None:
    """Show a curve and its table; a failure to do so is a warning, not an error.

    The keys stay the same for a run, so Prefect shows how it grew.
    """
    key = re.sub(r"[^a-z0-9]+", "-", f"soapworks-{watch.place.name}-{curve.picture.name}")
    key = key.rpartition("-")[0]  # without the picture's format
    try:
        data = base64.b64encode(curve.picture.read_bytes()).decode()
        kind = _TYPES[curve.picture.name.rpartition(".")[2]]
        create_image_artifact(
            f"data:{kind};base64,{data}",
            key=f"{key}-curve",
            description=f"SI against training: {curve.run} in {watch.folder}",
        )
        create_markdown_artifact(
            markdown(curve),
            key=f"{key}-table",
            description=f"Scores of {curve.run} in {watch.folder}",
        )
    except Exception as error:  # noqa: BLE001 - a picture of the result must not lose the result
        logger.warning("the curve of %s could not be shown in Prefect: %s", curve.run, error)


def markdown(curve: Curve) -> str:
    """Return a table for people: a row per step, a column per layer."""
    table = curve.table
    layers = list(dict.fromkeys(table["layer"]))
    unit = table["unit"].iloc[0]
    lines = [
        f"Highest SI, and in brackets the share of the variance above .75. Picture: "
        f"`{curve.picture}`, table: `{curve.csv}`.",
        "",
        f"| {unit} | {' | '.join(layers)} |",
        f"|{' ---: |' * (len(layers) + 1)}",
    ]
    for step, rows in list(table.groupby("step"))[-_MOST_STEPS:]:
        by_layer = {
            row.layer: f"{row.top_si:.4f} ({row.invariant_variance_share:.1%})"
            for row in rows.itertuples()
        }
        cells = (by_layer.get(layer, "–") for layer in layers)
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)
