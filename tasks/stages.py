"""The stages of a run on plain data: a request in, keys out.

Each function does one stage for one request and says whether everything was there already. They
know no workflow engine; flows wrap them as tasks, tests call them as they are.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from soapworks.errors import CheckpointError
from soapworks.images.listing import open_folder
from storage_schemas.recipes import FeaturesRecipe
from storage_schemas.store import Product
from tasks.batches import BatchSize
from tasks.events import StageFinished, StageStarted, emit
from tasks.export import make_head
from tasks.extract import STAGE as EXTRACT
from tasks.extract import extract
from tasks.fit_pca import make_moments, make_pca
from tasks.identify import identify, known_identity
from tasks.index_images import publish_manifest, scan_images
from tasks.obtain import require
from tasks.planning import CheckpointPlan, LayerPlan, find_missing
from tasks.request import ScoreRequest, plan_of
from tasks.respond import make_responses
from tasks.score import make_scores
from tasks.sources import ImageSource, RealSource, SyntheticSource

if TYPE_CHECKING:
    from soapworks.backbones import Backbone

BATCH_SIZES = {"cpu": 16}
"""Images per forward pass by kind of device; 64 on all others."""


class StageResult(NamedTuple):
    """What a stage gives back: plain data."""

    keys: list[str]
    """Keys of the stage's products."""
    cached: bool
    """Whether all of them were there already."""


def index_stage(request: ScoreRequest) -> StageResult:
    """Index the photographs; the key is the manifest's."""
    store = request.store()
    manifest = scan_images(store, request.images, request.settings, workers=request.options.workers)
    cached = store.find(manifest.recipe) is not None
    return StageResult([publish_manifest(store, request.images, manifest).key], cached)


def identify_stage(request: ScoreRequest) -> StageResult:
    """Digest the checkpoint's tensors; the key is the identity's."""
    store = request.store()
    known = known_identity(store, request.checkpoint, request.architecture)
    if known is not None:
        return StageResult([known.key], True)
    return StageResult([identify(store, request.checkpoint, request.architecture).key], False)


def extract_stage(request: ScoreRequest, domain: str) -> StageResult:
    """Extract the features of a domain ("real" or "synthetic") at all layers that lack them."""
    store, plan = request.store(), plan_of(request)
    missing = find_missing(store, plan)
    made: list[Product] = []
    segments = zip(*(getattr(layer, domain) for layer in plan.layers), strict=True)
    for number, recipes in enumerate(segments):
        wanted = [recipe for recipe in recipes if recipe in missing]
        if wanted:
            made += extract(
                store,
                _backbone(request, plan),
                wanted,
                _source(request, plan, domain, number, wanted[0]),
                _batch_size(request),
            )
    if not made:
        emit(StageFinished(EXTRACT, f"{request.checkpoint} · {domain}", True, 0.0))
    return StageResult([product.key for product in made], not made)


def pca_stage(request: ScoreRequest, layer: str) -> StageResult:
    """Make the moments of a layer's segments and its principal components."""
    store, plan = request.store(), _layer_plan(request, layer)
    options = request.options

    def make() -> Product:
        features = {recipe.key: recipe for recipe in plan.real}
        moments = [
            store.find(recipe)
            or make_moments(
                store,
                recipe,
                require(store, features[recipe.features]),
                memory=options.memory,
                workers=options.workers,
            )
            for recipe in plan.moments
        ]
        return make_pca(store, plan.pca, moments)

    return _stage("pca", request, layer, store.find(plan.pca), make)


def score_stage(request: ScoreRequest, layer: str) -> StageResult:
    """Count a layer's responses in both domains and score its components."""
    store, plan = request.store(), _layer_plan(request, layer)
    options = request.options
    features = {recipe.key: recipe for recipe in (*plan.real, *plan.synthetic)}

    def make() -> Product:
        pca = require(store, plan.pca)
        real, synthetic = (
            [
                store.find(recipe)
                or make_responses(
                    store,
                    recipe,
                    require(store, features[recipe.features]),
                    pca,
                    memory=options.memory,
                    workers=options.workers,
                )
                for recipe in recipes
            ]
            for recipes in (plan.real_responses, plan.synthetic_responses)
        )
        return make_scores(store, plan.scores, pca, real, synthetic)

    return _stage("score", request, layer, store.find(plan.scores), make)


def head_stage(request: ScoreRequest, layer: str) -> StageResult:
    """Export a layer's head."""
    store, plan = request.store(), _layer_plan(request, layer)

    def make() -> Product:
        return make_head(store, plan.head, require(store, plan.pca), require(store, plan.scores))

    return _stage("head", request, layer, store.find(plan.head), make)


def _stage(
    stage: str,
    request: ScoreRequest,
    layer: str,
    found: Product | None,
    make: Callable[[], Product],
) -> StageResult:
    subject, started = f"{request.checkpoint} · {layer}", time.monotonic()
    if found is None:
        emit(StageStarted(stage, subject, 1, "layers"))
    product = found or make()
    emit(StageFinished(stage, subject, found is not None, time.monotonic() - started))
    return StageResult([product.key], found is not None)


def _layer_plan(request: ScoreRequest, layer: str) -> LayerPlan:
    return next(p for p in plan_of(request).layers if p.subject.layer == layer)


def _source(
    request: ScoreRequest,
    plan: CheckpointPlan,
    domain: str,
    number: int,
    recipe: FeaturesRecipe,
) -> ImageSource:
    if recipe.input.domain == "real":
        return RealSource(
            open_folder(request.images),
            plan.manifest.segments[number],
            plan.preprocessing,
            request.options.workers,
        )
    return SyntheticSource(
        recipe.input,
        plan.preprocessing.size,
        recipe.mean,
        recipe.std,
        resolve_device(request.options.device),
    )


def _batch_size(request: ScoreRequest) -> BatchSize:
    device = resolve_device(request.options.device)
    return _batch_sizes(
        request.checkpoint, request.options.batch_size or BATCH_SIZES.get(device, 64)
    )


@lru_cache(maxsize=8)
def _batch_sizes(checkpoint: str, size: int) -> BatchSize:
    """Return the one batch size of a checkpoint in this process: a halved one is remembered."""
    return BatchSize(size)


def _backbone(request: ScoreRequest, plan: CheckpointPlan) -> "Backbone":
    return _load_backbone(
        request.checkpoint,
        request.architecture,
        plan.identity.digest,
        plan.preprocessing.size,
        resolve_device(request.options.device),
        request.settings.precision,
    )


@lru_cache(maxsize=1)
def _load_backbone(
    identifier: str,
    architecture: str | None,
    digest: str,
    image_size: int,
    device: str,
    precision: str,
) -> "Backbone":
    from soapworks.backbones import build_backbone, open_checkpoint

    checkpoint = open_checkpoint(identifier, architecture=architecture)
    if checkpoint.digest != digest:
        raise CheckpointError(
            f"{identifier} was changed while the run was under way: run the same command again."
        )
    return build_backbone(checkpoint, image_size=image_size, device=device, precision=precision)


def resolve_device(device: str) -> str:
    """Return the device meant by ``auto``: the first CUDA device, Apple's, or the CPU."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
