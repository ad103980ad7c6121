"""The results of a run: a summary per (checkpoint, layer)."""

from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.store import Store
from soapworks.tasks.get_or_make import require
from soapworks.tasks.plan.recipes import CheckpointPlan, Missing


def summarize(store: Store, plan: CheckpointPlan, missing: Missing) -> list[LayerSummary]:
    """Return a summary per layer of a finished plan, in forward order.

    Parameters
    ----------
    store
        Where the products are.
    plan
        What was wanted.
    missing
        What was missing before the run, for the column ``cached``.
    """
    summaries = []
    for layer in plan.layers:
        head = require(store, layer.head)
        summaries.append(
            LayerSummary.from_facts(
                head.facts,
                checkpoint=plan.identity.identifier,
                layer=layer.subject.layer,
                cached=layer.head not in missing,
                key=head.key,
                head=head.location.url,
            )
        )
    return summaries
