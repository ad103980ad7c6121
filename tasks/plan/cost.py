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
    """Projected cost of a run in one storage mode."""

    forward_passes: int
    """Images to pass through the network; an image that passes twice counts twice."""
    disk_bytes: int
    """Bytes that stay in the store."""
    work_bytes: int
    """Peak of temporary bytes during the passes."""


@dataclass(frozen=True)
class Projection:
    """Projected cost of a run."""

    checkpoint: str
    preprocessing: str
    """Description of the preprocessing."""
    n_images: int
    """Real images."""
    n_unreadable: int
    """Unreadable files, left out."""
    n_synthetic: int
    layers: tuple[str, ...]
    cached_layers: tuple[str, ...]
    """Layers whose head is in the store."""
    keep_features: KeepFeatures
    """Requested storage mode; the fields below are for it."""
    forward_passes: int
    """Images to pass through the network; an image that passes twice counts twice."""
    images_without_features: int
    """Images without stored features after the run, which need another pass for new statistics."""
    products: dict[str, int]
    """Products to be made, by kind."""
    n_bytes: dict[str, int]
    """Bytes to be written, by kind."""
    float32_bytes: int
    """Additional bytes if no layer can be stored in float16."""
    extraction_memory: int
    """Projected memory of the passes, bytes: weights, blocks of features, components."""
    statistics_memory: int
    """Memory limit of PCA and responses, bytes."""
    free_bytes: int | None
    """Free bytes of the store; None for a bucket."""
    modes: dict[str, Cost]
    """Cost of each storage mode."""

    @property
    def total_bytes(self) -> int:
        """Total bytes to be written."""
        return sum(self.n_bytes.values())

    @property
    def peak_bytes(self) -> int:
        """Peak of bytes written at any time."""
        return self.total_bytes + self.modes[self.keep_features].work_bytes


def project(store: Store, plan: CheckpointPlan, missing: Missing, *, memory: int) -> Projection:
    """Project the cost of a plan.

    Parameters
    ----------
    store
        Asked for its free space.
    plan, missing
        Requested products, and those of them that are missing.
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
    """Count images without features of a layer before and after the run."""
    # One listing shows most missing products; damage is not looked for here.
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
        for kind, of_kind in sizes.items():
            products[kind] += len(of_kind)
            n_bytes[kind] += sum(of_kind) + SMALL_FILES_BYTES * len(of_kind)
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
    """Count images to pass through the network, all layers at once."""
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
    return sum(part.n_images for inputs in (extracted, first, second) for part in inputs)


def _work_bytes(plan: CheckpointPlan, missing: Missing) -> int:
    """Return the bytes of one segment's statistics by block, before they are merged."""
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
    """Refuse a run that needs more space than the store has.

    Raises
    ------
    ResourceError
        With both sizes.
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
            "(--layers, --max-images), or choose another --store"
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
