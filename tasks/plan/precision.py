"""The dtype in which each layer's features are stored, as far as the store can tell.

Layers are taken to fit into float16 until a pass finds otherwise, and records it in the store.
Components of stores older than that check are checked themselves.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from soapworks.errors import RoundingError, StoreError
from soapworks.method.rounding import BOUND, channel_shares
from soapworks.storage_schemas.layout.arrays import read_arrays
from soapworks.storage_schemas.layout.manifest import Manifest
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe, PrecisionRecipe
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.inputs.checkpoint import Identity
from soapworks.tasks.plan.recipes import CheckpointPlan, LayerPlan, plan_checkpoint
from soapworks.tasks.settings import ScoreSettings

PRECISION_FILE = "precision.json"

SLACK = 1.1
"""Factor on the bound for moments of features that were rounded already."""


def plan_from_store(
    store: Store, identity: Identity, manifest: Manifest, settings: ScoreSettings
) -> CheckpointPlan:
    """Return the plan of a checkpoint, with the dtypes that the store knows of.

    Raises
    ------
    RoundingError
        Where float16 is asked for and is known not to hold a layer.
    """
    plan = plan_checkpoint(identity, manifest, settings)
    if settings.store_dtype == "float32":
        return plan
    faults = _known_faults(store, plan)
    if not faults:
        return plan
    if settings.store_dtype == "float16":
        raise RoundingError(faults)
    return plan_checkpoint(identity, manifest, settings, faults)


def float32_layers(plan: CheckpointPlan) -> tuple[str, ...]:
    """Return the layers of a plan whose features are stored in float32."""
    return tuple(la.subject.layer for la in plan.layers if la.real[0].dtype == "float32")


def record_faults(store: Store, plan: CheckpointPlan, faults: Mapping[str, str]) -> None:
    """Record in the store which layers float16 does not hold, and why."""
    recipes: dict[str, PrecisionRecipe] = {la.subject.layer: la.precision for la in plan.layers}

    for layer, reason in faults.items():

        def make(attempt: Attempt, reason: str = reason) -> dict[str, Any]:
            attempt.writer.write(PRECISION_FILE, json.dumps({"dtype": "float32"}).encode())
            return {"reason": reason}  # of the block that was seen first: no part of the product

        get_or_make(store, recipes[layer], make)
        emit(
            Notice(f"{plan.identity.identifier} {layer}: features are stored in float32: {reason}")
        )


def channel_fault(recipe: FeaturesRecipe, mean: np.ndarray, variance: np.ndarray) -> str | None:
    """Return which channel float16 does not hold, or None."""
    shares = channel_shares(mean, variance)
    worst = int(np.argmax(shares))
    return (
        describe_fault(recipe, "channel", worst, shares[worst]) if shares[worst] > BOUND else None
    )


def describe_fault(recipe: FeaturesRecipe, what: str, number: int, share: float) -> str:
    """Return the message about a channel or component that float16 does not hold."""
    return (
        f"{recipe.subject.architecture} {recipe.subject.layer}: rounding to float16 adds an error "
        f"of {share:.2g} times the variance of {what} {number} (limit {BOUND:g})"
    )


def float16_fact(mean: np.ndarray, variance: np.ndarray) -> dict[str, Any]:
    """Return the fact about components that says how well float16 holds their channels."""
    shares = channel_shares(mean, variance)
    worst = int(np.argmax(shares))
    return {"channel": worst, "share": float(min(shares[worst], np.finfo(np.float64).max))}


def stored_fault(layer: LayerPlan, pca: Product) -> str | None:
    """Return why components were made from features that float16 does not hold, or None."""
    fact = pca.facts.get("float16")
    if fact is None:
        try:
            arrays = read_arrays(pca.open_zarr(), "pca")
        except StoreError:
            return None  # damage: found, and repaired, where the components are needed
        variance = arrays["explained_variance"] @ arrays["components"] ** 2
        fact = float16_fact(arrays["mean"], variance)
    if fact["share"] <= SLACK * BOUND:
        return None
    return describe_fault(layer.real[0], "channel", fact["channel"], fact["share"])


def recorded_faults(store: Store, plan: CheckpointPlan) -> dict[str, str]:
    """Return layer -> reason for the float16 layers that a pass found not to hold."""
    # One listing tells that most were never found wanting.
    recorded = set((store.location / PrecisionRecipe.kind).names())
    faults = {}
    for layer in plan.layers:
        if layer.real[0].dtype == "float16" and store.address(layer.precision).name in recorded:
            finding = store.find(layer.precision)
            if finding is not None:
                faults[layer.subject.layer] = str(finding.facts["reason"])
    return faults


def _known_faults(store: Store, plan: CheckpointPlan) -> dict[str, str]:
    """Return layer -> reason for the layers that float16 is known not to hold."""
    faults: dict[str, str] = recorded_faults(store, plan)
    for layer in plan.layers:
        pca = None if layer.subject.layer in faults else store.find(layer.pca)
        fault = pca and stored_fault(layer, pca)
        if fault:
            faults[layer.subject.layer] = fault
    return faults
