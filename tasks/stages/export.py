"""Make a head from components and scores, with the table that explains it."""

from typing import Any

import numpy as np

from soapworks.errors import InputError
from soapworks.heads.head import SoapHead
from soapworks.method.weights import select_components, suppression_weights
from soapworks.storage_schemas.layout.recipes import HeadRecipe
from soapworks.storage_schemas.layout.tables import HEAD_SCORES, SCORES_TABLE, write_scores
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.stages.respond import components_of
from soapworks.tasks.stages.score import read_score_table

HEAD_FILE = "head.safetensors"


def head_weights(recipe: HeadRecipe, scores: np.ndarray) -> np.ndarray:
    """Return the suppression weight of every component, (D,) float64."""
    if recipe.weights == "scores":
        return np.nan_to_num(scores)  # none for components without variance
    if recipe.weights == "selected":
        return select_components(len(scores), recipe.components)
    if recipe.mu is None or recipe.tau is None:
        raise InputError("a head with weights = sigmoid needs mu and tau.")
    return suppression_weights(scores, mu=recipe.mu, tau=recipe.tau)


def make_head(store: Store, recipe: HeadRecipe, pca_product: Product, scores: Product) -> Product:
    """Return a layer's SOAP head as safetensors, its recipe in the file's metadata."""

    def make(attempt: Attempt) -> dict[str, Any]:
        table = read_score_table(scores)
        weights = head_weights(recipe, table["si"].to_numpy())
        metadata = {
            "layer": recipe.subject.layer,
            "architecture": recipe.subject.architecture,
            "checkpoint": recipe.subject.weights,
            "recipe": recipe.canonical_json().decode("ascii"),
        }
        (pca,) = components_of([pca_product])
        head = SoapHead.from_pca(pca, weights, centred=recipe.centred, metadata=metadata)
        attempt.writer.write(HEAD_FILE, head.to_bytes())
        table["weight"] = weights
        attempt.writer.write(SCORES_TABLE, write_scores(table, HEAD_SCORES))
        return {
            **scores.record["facts"],
            "n_suppressed": int((weights > 0.5 * table["si"].fillna(0).to_numpy()).sum()),
        }

    return get_or_make(store, recipe, make)
