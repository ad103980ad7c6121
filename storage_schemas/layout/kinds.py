"""Every kind of product that a store may hold."""

from soapworks.storage_schemas.layout.evaluations import EvaluationRecipe
from soapworks.storage_schemas.layout.recipes import (
    CheckpointRecipe,
    FeaturesRecipe,
    HeadRecipe,
    ImagesRecipe,
    MomentsRecipe,
    PcaRecipe,
    PrecisionRecipe,
    Recipe,
    ResponsesRecipe,
    ScoresRecipe,
)

RECIPES: dict[str, type[Recipe]] = {
    recipe.kind: recipe
    for recipe in (
        CheckpointRecipe,
        ImagesRecipe,
        PrecisionRecipe,
        FeaturesRecipe,
        MomentsRecipe,
        PcaRecipe,
        ResponsesRecipe,
        ScoresRecipe,
        HeadRecipe,
        EvaluationRecipe,
    )
}
"""Every kind of product and the recipe of it, in the order in which the data flows."""
