"""The stages of a run on plain data: a request in, keys out.

Each function does one stage of one request and returns whether all was cached. They know no
workflow engine; flows wrap them as tasks, tests call them as they are.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from soapworks.errors import RoundingError
from soapworks.storage_schemas.layout.recipes import (
    FeaturesRecipe,
    RealInput,
    ResponsesRecipe,
    SyntheticInput,
)
from soapworks.storage_schemas.store import Product
from soapworks.tasks.events import Advance, StageFinished, emit, stage
from soapworks.tasks.executors.connection import connected
from soapworks.tasks.get_or_make import require
from soapworks.tasks.inputs.checkpoint import find_identity, identify, read_identity, report_part
from soapworks.tasks.inputs.images import publish_manifest, scan_images
from soapworks.tasks.passes.cluster import ClusterNetwork
from soapworks.tasks.passes.local import LocalNetwork
from soapworks.tasks.passes.network import Network
from soapworks.tasks.plan.precision import record_faults, stored_fault
from soapworks.tasks.plan.recipes import LayerPlan, find_missing
from soapworks.tasks.plan.request import IndexRequest, PlannedRequest, ScoreRequest, plan_of
from soapworks.tasks.stages.export import make_head
from soapworks.tasks.stages.extract import extract
from soapworks.tasks.stages.fit_pca import make_moments, make_pca
from soapworks.tasks.stages.respond import make_responses
from soapworks.tasks.stages.score import make_scores
from soapworks.tasks.stages.stream import R, Statistic, StreamedMoments, StreamedResponses, stream


class StageResult(NamedTuple):
    """What a stage gives back: plain data."""

    keys: list[str]
    """Keys of the stage's products."""
    cached: bool
    """Whether all of them were there already."""


def index_stage(request: IndexRequest) -> StageResult:
    """Index the images; the key is the manifest's."""
    store = request.store()
    manifest = scan_images(store, request.images, request.settings, workers=request.options.workers)
    cached = store.find(manifest.recipe) is not None
    return StageResult([publish_manifest(store, request.images, manifest).key], cached)


def identify_stage(request: ScoreRequest) -> StageResult:
    """Digest the checkpoint's tensors; the key is the identity's."""
    store = request.store()
    known = find_identity(store, *request.asked)
    product = known or identify(store, *request.asked)
    report_part(read_identity(product))
    return StageResult([product.key], known is not None)


def extract_stage(request: PlannedRequest, domain: str) -> StageResult:
    """Extract the features of a domain ("real" or "synthetic") at all layers that lack them."""
    store, plan = request.store(), plan_of(request)
    missing = find_missing(store, plan)
    segments = [
        [recipe for recipe in recipes if recipe in missing]
        for recipes in zip(*(getattr(layer, domain) for layer in plan.layers), strict=True)
    ]

    def extract_segment(
        network: Network, recipes: Sequence[FeaturesRecipe], advance: Advance
    ) -> list[Product]:
        return extract(store, network, recipes, advance)

    return _pass_over("extract", request, domain, [s for s in segments if s], extract_segment)


def moments_stage(request: PlannedRequest) -> StageResult:
    """Stream the real images once, for the moments of all layers that lack them."""
    store, plan = request.store(), plan_of(request)
    missing = find_missing(store, plan, "none")
    wanted = [m for layer in plan.layers for m in layer.moments if missing.streams(m)]
    return _stream_stage(request, "real", StreamedMoments(), wanted)


def responses_stage(request: PlannedRequest, domain: str) -> StageResult:
    """Stream the images of a domain, for the responses of all layers that lack them."""
    store, plan = request.store(), plan_of(request)
    missing = find_missing(store, plan, "none")
    wanted: list[ResponsesRecipe] = []
    pcas = {}
    for layer in plan.layers:
        some = [r for r in getattr(layer, f"{domain}_responses") if missing.streams(r)]
        if some:
            pcas[layer.subject.layer] = require(store, layer.pca)
        wanted += some
    return _stream_stage(request, domain, StreamedResponses(pcas), wanted)


def pca_stage(request: PlannedRequest, layer: str) -> StageResult:
    """Make the moments of a layer's segments and its principal components."""
    store, plan = request.store(), _layer_plan(request, layer)
    options = request.options

    def make() -> Product:
        features = {recipe.key: recipe for recipe in plan.real}
        with connected(options.dask) as cluster:
            moments = [
                store.find(recipe)
                or make_moments(
                    store,
                    recipe,
                    require(store, features[recipe.features]),
                    memory=options.memory,
                    workers=options.workers,
                    cluster=cluster,
                )
                for recipe in plan.moments
            ]
        return make_pca(store, plan.pca, moments)

    result = _found_or_made(store.find(plan.pca), make)
    if plan.real[0].dtype == "float16":
        # Features of an older version were not checked while they were extracted.
        fault = stored_fault(plan, require(store, plan.pca))
        if fault is not None:
            raise RoundingError({layer: fault})
    return result


def score_stage(request: PlannedRequest, layer: str) -> StageResult:
    """Count a layer's responses in both domains and score its components."""
    store, plan = request.store(), _layer_plan(request, layer)
    options = request.options
    features = {recipe.key: recipe for recipe in plan.features}

    def make() -> Product:
        pca = require(store, plan.pca)
        with connected(options.dask) as cluster:
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
                        cluster=cluster,
                    )
                    for recipe in recipes
                ]
                for recipes in (plan.real_responses, plan.synthetic_responses)
            )
        return make_scores(store, plan.scores, pca, real, synthetic)

    return _found_or_made(store.find(plan.scores), make)


def head_stage(request: PlannedRequest, layer: str) -> StageResult:
    """Export a layer's head."""
    store, plan = request.store(), _layer_plan(request, layer)

    def make() -> Product:
        return make_head(store, plan.head, require(store, plan.pca), require(store, plan.scores))

    return _found_or_made(store.find(plan.head), make)


def settle(request: PlannedRequest, *steps: Callable[[PlannedRequest], object]) -> PlannedRequest:
    """Do steps in turn; start over where one finds that float16 does not hold a layer.

    Finished work is not done again. Returns the request with the dtypes that hold.
    """
    todo = list(steps)
    while todo:
        todo.pop(0)(request)
        again = request.replanned()
        if again != request:
            request, todo = again, list(steps)
    return request


def _stream_stage(
    request: PlannedRequest, domain: str, statistic: Statistic[R], wanted: Sequence[R]
) -> StageResult:
    """Pass over every segment of a domain that some layer's statistic lacks."""
    store, plan = request.store(), plan_of(request)
    features = {recipe.key: recipe for layer in plan.layers for recipe in layer.features}
    segments: dict[RealInput | SyntheticInput, dict[R, FeaturesRecipe]] = {}
    for recipe in wanted:
        about = features[recipe.features]
        segments.setdefault(about.input, {})[recipe] = about
    by_segment = {tuple(about.values()): about for about in segments.values()}

    def stream_segment(
        network: Network, recipes: Sequence[FeaturesRecipe], advance: Advance
    ) -> list[Product]:
        return stream(
            store,
            network,
            statistic,
            by_segment[tuple(recipes)],
            advance,
            memory=request.options.memory,
            workers=request.options.workers,
        )

    return _pass_over(statistic.stage, request, domain, list(by_segment), stream_segment)


def _pass_over(
    name: str,
    request: PlannedRequest,
    domain: str,
    segments: Sequence[Sequence[FeaturesRecipe]],
    do_segment: Callable[[Network, Sequence[FeaturesRecipe], Advance], list[Product]],
) -> StageResult:
    """Do one segment after another, as one stage; it is cached where no segment is given."""
    subject = f"{request.checkpoint} · {domain}"
    if not segments:
        emit(StageFinished(name, subject, True, 0.0))
        return StageResult([], True)
    n_images = sum(recipes[0].input.n_images for recipes in segments)
    made: list[Product] = []
    try:
        with (
            connected(request.options.dask) as cluster,
            stage(name, subject, n_images, "images") as advance,
        ):
            network = ClusterNetwork(cluster, request) if cluster else LocalNetwork.of(request)
            for recipes in segments:
                made += do_segment(network, recipes, advance)
    except RoundingError as error:
        record_faults(request.store(), plan_of(request), error.layers)
        if request.settings.store_dtype != "auto":
            raise
    return StageResult([product.key for product in made], False)


def _found_or_made(found: Product | None, make: Callable[[], Product]) -> StageResult:
    return StageResult([(found or make()).key], found is not None)


def _layer_plan(request: PlannedRequest, layer: str) -> LayerPlan:
    return next(p for p in plan_of(request).layers if p.subject.layer == layer)
