"""Project what a run will cost before it starts, and refuse one that would not fit."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import get_args

from rich.filesize import decimal

from soapworks.errors import ResourceError
from soapworks.images.preprocessing import Preprocessing
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe, RealInput, SyntheticInput
from soapworks.storage_schemas.publishing.records import RECORD
from soapworks.storage_schemas.store import Store
from soapworks.tasks.plan.recipes import CheckpointPlan, Missing
from soapworks.tasks.settings import KeepFeatures

FLOAT64 = 8
TABLE_ROW_BYTES = 100
"""A row of a score table as parquet, bytes, rounded up."""

SMALL_FILES_BYTES = 8192
"""Record, recipe and zarr metadata of one product, bytes, rounded up."""

WORK_FILES_BYTES = 1024
"""Header and part record of what a block gave, bytes, rounded up."""


@dataclass(frozen=True)
class Cost:
    """What a run would cost in one storage mode."""

    forward_passes: int
    """Images that have to go through the network; twice counts twice."""
    disk_bytes: int
    """Bytes that stay in the store."""
    work_bytes: int
    """Bytes needed besides, at most, while the images pass; gone at the end."""


@dataclass(frozen=True)
class Projection:
    """What a run would cost."""

    checkpoint: str
    preprocessing: str
    """How an image becomes the model's input, in words."""
    n_images: int
    """Photographs."""
    n_unreadable: int
    """Files left out."""
    n_synthetic: int
    layers: tuple[str, ...]
    cached_layers: tuple[str, ...]
    """Layers whose head is there already."""
    keep_features: KeepFeatures
    """The storage mode that was asked for; what follows is its."""
    forward_passes: int
    """Images that have to go through the network; twice counts twice."""
    images_without_features: int
    """Images with no features in the store after the run: they pass the network again for
    whatever reads features, for example when images are added."""
    products: dict[str, int]
    """Products to be made, by kind."""
    n_bytes: dict[str, int]
    """Bytes to be written, by kind."""
    float32_bytes: int
    """Bytes more if a pass found that float16 holds none of the layers to be extracted."""
    extraction_memory: int
    """Weights, blocks of features and components that are held during the passes, bytes."""
    statistics_memory: int
    """Limit that PCA and responses keep, bytes."""
    free_bytes: int | None
    """Free space of the store; None where it has no end."""
    modes: dict[str, Cost]
    """What each storage mode would cost."""

    @property
    def total_bytes(self) -> int:
        """Bytes to be written in all."""
        return sum(self.n_bytes.values())

    @property
    def peak_bytes(self) -> int:
        """Most bytes that the run would have written at any time."""
        return self.total_bytes + self.modes[self.keep_features].work_bytes


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
    products, n_bytes = _products(plan, missing)
    modes = {}
    for mode in get_args(KeepFeatures):
        other = replace(missing, keep_features=mode)
        disk_bytes = sum(_products(plan, other)[1].values())
        modes[mode] = Cost(_forward_passes(plan, other), disk_bytes, _work_bytes(plan, other))
    cost = modes[missing.keep_features]
    return Projection(
        checkpoint=plan.identity.identifier,
        preprocessing=_in_words(plan.preprocessing),
        n_images=plan.manifest.n_images,
        n_unreadable=len(plan.manifest.unreadable),
        n_synthetic=plan.settings.synthetic_images,
        layers=tuple(layer.subject.layer for layer in plan.layers),
        cached_layers=tuple(la.subject.layer for la in plan.layers if la.head not in missing),
        keep_features=missing.keep_features,
        forward_passes=cost.forward_passes,
        images_without_features=_without_features(store, plan, missing),
        products=dict(products),
        n_bytes=dict(n_bytes),
        float32_bytes=_float32_bytes(plan, missing),
        extraction_memory=_pass_memory(plan, missing) if cost.forward_passes else 0,
        statistics_memory=memory,
        free_bytes=store.free_bytes(),
        modes=modes,
    )


def _without_features(store: Store, plan: CheckpointPlan, missing: Missing) -> int:
    """Return how many images lack the features of a layer, and will."""
    # One listing tells of most that is gone; whether features are whole is not asked here.
    there = set((store.location / "features").names())
    gone = {
        features.input: features.input.n_images
        for layer in plan.layers
        for features in layer.features
        if features not in missing
        and (
            (address := store.address(features)).name not in there
            or (address / RECORD).size() is None
        )
    }
    return sum(gone.values())


def _products(plan: CheckpointPlan, missing: Missing) -> tuple[Counter[str], Counter[str]]:
    """Return number and bytes of the products to be made, by kind."""
    products: Counter[str] = Counter()
    n_bytes: Counter[str] = Counter()
    for layer in plan.layers:
        channels = plan.identity.n_channels(layer.subject.layer)
        sizes = {
            "features": [
                _image_bytes(plan, f) * f.input.n_images for f in layer.features if f in missing
            ],
            "moments": [_moments_bytes(channels) for m in layer.moments if m in missing],
            "pca": [FLOAT64 * channels * (channels + 2)] * (layer.pca in missing),
            "responses": [
                _counts_bytes(plan, f) * f.n_blocks
                for f, r in zip(layer.features, layer.responses, strict=True)
                if r in missing
            ],
            "scores": [TABLE_ROW_BYTES * channels] * (layer.scores in missing),
            "heads": [(4 * channels + TABLE_ROW_BYTES) * channels] * (layer.head in missing),
        }
        for kind, some in sizes.items():
            products[kind] += len(some)
            n_bytes[kind] += sum(some) + SMALL_FILES_BYTES * len(some)
    return products, n_bytes


def _float32_bytes(plan: CheckpointPlan, missing: Missing) -> int:
    """Return the bytes that float32 would add to features whose dtype is not settled."""
    if plan.settings.store_dtype != "auto":
        return 0
    return sum(
        _image_bytes(plan, features) * features.input.n_images
        for layer in plan.layers
        for features in layer.features
        if features in missing and features.dtype == "float16"
    )


def _forward_passes(plan: CheckpointPlan, missing: Missing) -> int:
    """Return how many images have to go through the network, all layers at once."""
    layers = plan.layers
    extracted = {f.input for layer in layers for f in layer.features if f in missing}
    first = {
        features.input
        for layer in layers
        for features, moments in zip(layer.real, layer.moments, strict=True)
        if missing.streams(moments)
    }
    second = {
        features.input
        for layer in layers
        for features, responses in zip(layer.features, layer.responses, strict=True)
        if missing.streams(responses)
    }
    return sum(one.n_images for inputs in (extracted, first, second) for one in inputs)


def _work_bytes(plan: CheckpointPlan, missing: Missing) -> int:
    """Return the bytes of the blocks' statistics of one segment, before they are put together."""
    first: Counter[RealInput | SyntheticInput] = Counter()
    second: Counter[RealInput | SyntheticInput] = Counter()
    for layer in plan.layers:
        moments = _moments_bytes(plan.identity.n_channels(layer.subject.layer))
        for f, m in zip(layer.real, layer.moments, strict=True):
            first[f.input] += missing.streams(m) * f.n_blocks * (moments + WORK_FILES_BYTES)
        for f, r in zip(layer.features, layer.responses, strict=True):
            counts = _counts_bytes(plan, f) + WORK_FILES_BYTES
            second[f.input] += missing.streams(r) * f.n_blocks * counts
    return max((*first.values(), *second.values()), default=0)


def _pass_memory(plan: CheckpointPlan, missing: Missing) -> int:
    """Return the bytes of weights, blocks and components held while images pass."""
    held = 4 * plan.identity.n_parameters
    for layer in plan.layers:
        channels = plan.identity.n_channels(layer.subject.layer)
        wanted = [f for f in layer.features if f.key in missing.features]
        if wanted:
            images = min(wanted[0].block_images, max(f.input.n_images for f in wanted))
            # One block is gathered and joined while the one before is being written.
            held += 3 * images * _image_bytes(plan, wanted[0])
        if any(map(missing.streams, layer.responses)):
            held += FLOAT64 * channels * (channels + 2)
    return held


def refuse_if_too_large(projection: Projection, store: Store) -> None:
    """Raise where the store has less room than the run would fill.

    Raises
    ------
    ResourceError
        With both numbers.
    """
    wanted, free = projection.peak_bytes, projection.free_bytes
    if free is not None and wanted > free:
        streamed = projection.modes["none"]
        less = (
            f"keep no features (--keep-features none: {decimal(streamed.disk_bytes)}, "
            f"{streamed.forward_passes} forward passes), "
            if projection.keep_features == "all"
            else ""
        )
        raise ResourceError(
            f"this run would write {decimal(wanted)} into {store.url}, which has "
            f"{decimal(free)} free: make room, {less}ask for fewer layers or images "
            "(--layers, --max-images), or choose another --store."
        )


def _image_bytes(plan: CheckpointPlan, recipe: FeaturesRecipe) -> int:
    return _positions(plan, recipe) * (2 if recipe.dtype == "float16" else 4)


def _counts_bytes(plan: CheckpointPlan, recipe: FeaturesRecipe) -> int:
    return _positions(plan, recipe) * 4


def _positions(plan: CheckpointPlan, recipe: FeaturesRecipe) -> int:
    rows, columns = plan.identity.grid_at(plan.preprocessing.size)
    return rows * columns * plan.identity.n_channels(recipe.subject.layer)


def _moments_bytes(channels: int) -> int:
    return FLOAT64 * channels * (channels + 1)


def _in_words(preprocessing: Preprocessing) -> str:
    mean, std = (
        ", ".join(f"{value:.3g}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return f"{preprocessing.mode} to {preprocessing.size} pixels, mean {mean}, std {std}"
