"""The results of a run as rows: one per (checkpoint, layer)."""

from typing import Any

from soapworks.storage_schemas.store import Store
from soapworks.tasks.get_or_make import require
from soapworks.tasks.plan.recipes import CheckpointPlan, Missing

COLUMNS = {
    "checkpoint": "checkpoint",
    "layer": "layer",
    "top_si": "top SI",
    "top_standard_error": "± error",
    "top_component": "at component",
    "n_invariant": "above .75",
    "invariant_variance_share": "variance above .75",
    "n_suppressed": "suppressed",
    "cached": "cached",
    "head": "head",
}
"""Columns of the summary: name in rows, heading."""


def summarize(store: Store, plan: CheckpointPlan, missing: Missing) -> list[dict[str, Any]]:
    """Return a row per layer of a finished plan, in forward order.

    Parameters
    ----------
    store
        Where the products are.
    plan
        What was wanted.
    missing
        What was missing before the run, for the column ``cached``.
    """
    rows = []
    for layer in plan.layers:
        product = require(store, layer.head)
        facts = product.record["facts"]
        rows.append(
            {
                "checkpoint": plan.identity.identifier,
                "layer": layer.subject.layer,
                **{name: facts[name] for name in COLUMNS if name in facts},
                "n_components": facts["n_components"],
                "n_real": facts["n_real"],
                "n_synthetic": facts["n_synthetic"],
                "cached": layer.head not in missing,
                "key": product.key,
                "head": product.location.url,
            }
        )
    return rows
