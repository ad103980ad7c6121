"""Score the components of a layer and tabulate them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from soapworks.method.jackknife import score_errors
from soapworks.method.scores import (
    INVARIANCE_THRESHOLD,
    invariant_variance_share,
    rank_components,
    score_components,
)
from soapworks.storage_schemas.layout.recipes import ScoresRecipe
from soapworks.storage_schemas.layout.tables import SCORES_TABLE, read_scores, write_scores
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.stages.conditions import conditions
from soapworks.tasks.stages.fit_pca import naming
from soapworks.tasks.stages.respond import components_of, read_responses


def make_scores(
    store: Store,
    recipe: ScoresRecipe,
    pca_product: Product,
    real: Sequence[Product],
    synthetic: Sequence[Product],
) -> Product:
    """Return the score table of a layer; its facts are the layer's summary.

    Raises
    ------
    CollapsedFeaturesError
        Where no component has variance.
    """

    def make(attempt: Attempt) -> dict[str, Any]:
        (pca,) = components_of([pca_product])
        real_counts, real_sizes = read_responses(real)
        synthetic_counts, synthetic_sizes = read_responses(synthetic)
        p = real_counts.sum(0) / real_sizes.sum()
        q = synthetic_counts.sum(0) / synthetic_sizes.sum()
        variance = pca.explained_variance
        with naming(recipe.subject):
            si = score_components(
                real_counts.sum(0),
                real_sizes.sum(),
                synthetic_counts.sum(0),
                synthetic_sizes.sum(),
                explained_variance=variance,
            )
        errors = score_errors(
            real_counts,
            real_sizes,
            synthetic_counts,
            synthetic_sizes,
            explained_variance=variance,
        )
        table = pd.DataFrame(
            {
                "layer": recipe.subject.layer,
                "component": np.arange(len(si)),
                "explained_variance": variance,
                "variance_share": variance / variance.sum(),
                "mean_p": p.mean((0, 1)),
                "mean_q": q.mean((0, 1)),
                "si": si,
                "standard_error": errors,
                "rank": rank_components(si),
            }
        )
        attempt.writer.write(SCORES_TABLE, write_scores(table))
        return {
            "n_real": int(real_sizes.sum()),
            "n_synthetic": int(synthetic_sizes.sum()),
            **summary(table),
            "measured": conditions(_recorded(real), _recorded(synthetic)),
        }

    return get_or_make(store, recipe, make)


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return a layer's summary from its score table.

    Returns
    -------
    dict
        ``n_invariant`` (components above .75), ``invariant_variance_share`` (their share of the
        total variance), and of the highest score ``top_si``, ``top_standard_error`` and
        ``top_component``.
    """
    top = table.loc[table["rank"] == 0].iloc[0]
    error = float(top["standard_error"])
    return {
        "n_components": len(table),
        "n_invariant": int((table["si"] > INVARIANCE_THRESHOLD).sum()),
        "invariant_variance_share": float(
            invariant_variance_share(table["si"], table["explained_variance"])
        ),
        "top_si": float(top["si"]),
        "top_standard_error": None if np.isnan(error) else error,
        "top_component": int(top["component"]),
    }


def _recorded(responses: Sequence[Product]) -> list[dict[str, Any]]:
    return [product.facts.get("seen", {}) for product in responses]


def read_score_table(product: Product) -> pd.DataFrame:
    """Return the table that a product of scores holds."""
    return read_scores(product.read(SCORES_TABLE), n_rows=product.facts.get("n_components"))
