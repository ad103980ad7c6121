"""Project what a run will cost before it starts, and refuse one that would not fit."""

from collections import Counter
from dataclasses import dataclass

from soapworks.errors import ResourceError
from storage_schemas.recipes import FeaturesRecipe, RealInput, SyntheticInput
from storage_schemas.store import Store
from tasks.planning import CheckpointPlan, Missing
from tasks.sizes import size

FLOAT64 = 8
TABLE_ROW_BYTES = 100
"""A row of a score table as parquet, bytes, rounded up."""

SMALL_FILES_BYTES = 8192
"""Record, recipe and zarr metadata of one product, bytes, rounded up."""


@dataclass(frozen=True)
class Projection:
    """What a run would cost."""

    checkpoint: str
    n_images: int
    """Photographs."""
    n_unreadable: int
    """Files left out."""
    n_synthetic: int
    layers: tuple[str, ...]
    cached_layers: tuple[str, ...]
    """Layers whose head is there already."""
    forward_passes: int
    """Images that have to go through the network."""
    products: dict[str, int]
    """Products to be made, by kind."""
    n_bytes: dict[str, int]
    """Bytes to be written, by kind."""
    extraction_memory: int
    """Weights and the two blocks of features that are held during extraction, bytes."""
    statistics_memory: int
    """Limit that PCA and responses keep, bytes."""
    free_bytes: int | None
    """Free space of the store; None where it has no end."""

    @property
    def total_bytes(self) -> int:
        """Bytes to be written in all."""
        return sum(self.n_bytes.values())


def project(store: Store, plan: CheckpointPlan, missing: Missing, *, memory: int) -> Projection:
    """Return what a plan would cost.

    Parameters
    ----------
    store
        Asked for its free space.
    plan, missing
        What is wanted and what of it is missing.
    memory
        The limit of the statistics, bytes.
    """
    rows, columns = plan.identity.grid(plan.preprocessing.size)
    products: Counter[str] = Counter()
    n_bytes: Counter[str] = Counter()
    block = 0
    inputs: dict[RealInput | SyntheticInput, int] = {}
    for layer in plan.layers:
        channels = plan.identity.channels[layer.subject.layer]
        features = [f for f in (*layer.real, *layer.synthetic) if f in missing]
        inputs |= {f.input: f.input.n_images for f in features}
        sizes = {
            "features": [
                _image_bytes(f, rows, columns, channels) * f.input.n_images for f in features
            ],
            "moments": [FLOAT64 * channels * (channels + 1) for m in layer.moments if m in missing],
            "pca": [FLOAT64 * channels * (channels + 2)] * (layer.pca in missing),
            "responses": [
                4 * rows * columns * channels * -(-f.input.n_images // f.block_images)
                for f, r in zip(
                    (*layer.real, *layer.synthetic),
                    (*layer.real_responses, *layer.synthetic_responses),
                    strict=True,
                )
                if r in missing
            ],
            "scores": [TABLE_ROW_BYTES * channels] * (layer.scores in missing),
            "heads": [(4 * channels + TABLE_ROW_BYTES) * channels] * (layer.head in missing),
        }
        for kind, some in sizes.items():
            products[kind] += len(some)
            n_bytes[kind] += sum(some) + SMALL_FILES_BYTES * len(some)
        if features:
            images = min(features[0].block_images, max(f.input.n_images for f in features))
            block += images * _image_bytes(features[0], rows, columns, channels)
    return Projection(
        checkpoint=plan.identity.identifier,
        n_images=plan.manifest.n_images,
        n_unreadable=len(plan.manifest.unreadable),
        n_synthetic=plan.settings.synthetic_images,
        layers=tuple(layer.subject.layer for layer in plan.layers),
        cached_layers=tuple(la.subject.layer for la in plan.layers if la.head not in missing),
        forward_passes=sum(inputs.values()),
        products=dict(products),
        n_bytes=dict(n_bytes),
        # One block is gathered and joined while the one before is being written.
        extraction_memory=4 * plan.identity.n_parameters + 3 * block if inputs else 0,
        statistics_memory=memory,
        free_bytes=store.free_bytes(),
    )


def refuse_if_too_large(projection: Projection, store: Store) -> None:
    """Raise where the store has less room than the run would fill.

    Raises
    ------
    ResourceError
        With both numbers.
    """
    wanted, free = projection.total_bytes, projection.free_bytes
    if free is not None and wanted > free:
        raise ResourceError(
            f"this run would write {size(wanted)} into {store.url}, which has {size(free)} free: "
            "make room, ask for fewer layers or images "
            "(--layers, --max-images), or choose another --store."
        )


def _image_bytes(recipe: FeaturesRecipe, rows: int, columns: int, channels: int) -> int:
    return rows * columns * channels * (2 if recipe.dtype == "float16" else 4)
