"""The plan of a run: every product that is wanted, by recipe, and which of them are missing.

All keys of a run follow from the checkpoint's digest, the images' digests and the settings, so the
whole plan is known before anything is computed, and what is missing is asked of the store.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from soapworks.errors import InputError
from soapworks.images.preprocessing import Preprocessing, preprocessing_for
from soapworks.storage_schemas.layout.manifest import Manifest
from soapworks.storage_schemas.layout.recipes import (
    FeaturesRecipe,
    HeadRecipe,
    MomentsRecipe,
    PcaRecipe,
    PrecisionRecipe,
    RealInput,
    Recipe,
    ResponsesRecipe,
    ScoresRecipe,
    Subject,
    SyntheticInput,
)
from soapworks.storage_schemas.store import Store
from soapworks.synthesis.images import SPECS
from soapworks.tasks.inputs.checkpoint import Identity
from soapworks.tasks.settings import KeepFeatures, ScoreSettings


@dataclass(frozen=True)
class LayerPlan:
    """Recipes of one (checkpoint, layer)."""

    subject: Subject
    real: tuple[FeaturesRecipe, ...]
    """Features of the real segments, in order."""
    synthetic: tuple[FeaturesRecipe, ...]
    """Features of the synthetic segments, in order."""
    moments: tuple[MomentsRecipe, ...]
    pca: PcaRecipe
    real_responses: tuple[ResponsesRecipe, ...]
    synthetic_responses: tuple[ResponsesRecipe, ...]
    scores: ScoresRecipe
    head: HeadRecipe

    @property
    def features(self) -> tuple[FeaturesRecipe, ...]:
        """Features of all segments, of both domains."""
        return (*self.real, *self.synthetic)

    @property
    def precision(self) -> PrecisionRecipe:
        """Recipe of the finding that float16 does not hold the layer."""
        names = PrecisionRecipe.model_fields.keys() - {"version"}
        return PrecisionRecipe(**{name: getattr(self.real[0], name) for name in names})

    @property
    def responses(self) -> tuple[ResponsesRecipe, ...]:
        """Responses of all segments, in the order of their features."""
        return (*self.real_responses, *self.synthetic_responses)

    def recipes(self) -> Iterator[Recipe]:
        """Yield all recipes in the order in which the data flows."""
        yield from (*self.features, *self.moments, self.pca)
        yield from (*self.responses, self.scores, self.head)


@dataclass(frozen=True)
class CheckpointPlan:
    """Everything wanted of one checkpoint."""

    identity: Identity
    manifest: Manifest
    preprocessing: Preprocessing
    settings: ScoreSettings
    layers: tuple[LayerPlan, ...]


@dataclass(frozen=True)
class Missing:
    """What a plan lacks."""

    recipes: frozenset[str] = field(default_factory=frozenset)
    """Keys of what has to be made, features apart."""
    features: frozenset[str] = field(default_factory=frozenset)
    """Keys of features that are wanted and not there."""
    keep_features: KeepFeatures = "all"
    """With "none" features are not made: their statistics come straight from forward passes."""

    def __contains__(self, recipe: Recipe) -> bool:
        """Whether a recipe's product has to be made."""
        kept = self.keep_features == "all" and recipe.key in self.features
        return kept or recipe.key in self.recipes

    def __bool__(self) -> bool:
        """Whether anything has to be made."""
        return bool(self.recipes)

    def streams(self, recipe: MomentsRecipe | ResponsesRecipe) -> bool:
        """Whether a statistic has to be made in a forward pass, without features in between."""
        absent = self.keep_features == "none" and recipe.features in self.features
        return absent and recipe.key in self.recipes


def plan_checkpoint(
    identity: Identity,
    manifest: Manifest,
    settings: ScoreSettings,
    float32_layers: Collection[str] = (),
) -> CheckpointPlan:
    """Return the plan of one checkpoint.

    Parameters
    ----------
    identity
        Who the checkpoint is: digest, architecture and what the architecture looks like.
    manifest
        The images.
    settings
        What is wanted.
    float32_layers
        Layers that float16 does not hold.

    Raises
    ------
    LayerError
        An unknown layer; the message lists the known ones.
    InputError
        An image size that the patch size does not divide, an unknown synthetic spec, mu or
        components beyond the number of channels.
    """
    side = identity.input_side(settings.image_size)
    preprocessing = preprocessing_for(
        settings.preprocessing,
        size=side,
        mean=settings.mean or identity.mean,
        std=settings.std or identity.std,
        pretrained_cfg=identity.pretrained_cfg,
    )
    layers = tuple(
        _plan_layer(
            Subject(
                architecture=identity.architecture,
                model_args=_as_pairs(identity.model_args),
                weights=identity.digest,
                layer=layer,
            ),
            identity.n_channels(layer),
            inputs=[
                *_real_inputs(manifest, preprocessing),
                *_synthetic_inputs(settings),
            ],
            image_size=(side, side),
            preprocessing=preprocessing,
            settings=settings,
            dtype="float32"
            if settings.store_dtype == "float32" or layer in float32_layers
            else "float16",
        )
        for layer in identity.resolve_layers(settings.layers)
    )
    return CheckpointPlan(identity, manifest, preprocessing, settings, layers)


def find_missing(
    store: Store, plan: CheckpointPlan, keep_features: KeepFeatures = "all"
) -> Missing:
    """Return what has to be made, looking backwards from the heads.

    A layer whose head is there needs nothing, whatever became of its features; a head whose
    scores and components are there needs no forward pass. Features that are there are used in
    both storage modes.
    """
    missing: set[str] = set()
    absent: set[str] = set()

    def lacks(recipe: Recipe) -> bool:
        if recipe.key in missing:
            return True
        if store.find(recipe) is None:
            missing.add(recipe.key)
            return True
        return False

    for layer in plan.layers:
        if not lacks(layer.head):
            continue
        scores = lacks(layer.scores)
        real = [r for r in layer.real_responses if scores and lacks(r)]
        synthetic = [r for r in layer.synthetic_responses if scores and lacks(r)]
        moments = []
        if lacks(layer.pca):
            moments = [m for m in layer.moments if lacks(m)]
        wanted = {r.features for r in [*real, *synthetic]} | {m.features for m in moments}
        for features in layer.features:
            if features.key in wanted and store.find(features) is None:
                absent.add(features.key)
    return Missing(frozenset(missing), frozenset(absent), keep_features)


def _plan_layer(
    subject: Subject,
    n_channels: int,
    *,
    inputs: Sequence[RealInput | SyntheticInput],
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    settings: ScoreSettings,
    dtype: Literal["float16", "float32"],
) -> LayerPlan:
    _check_selection(n_channels, settings)
    features = [
        FeaturesRecipe(
            subject=subject,
            input=one,
            image_size=image_size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            precision=settings.precision,
            dtype=dtype,
            block_images=settings.block_images,
        )
        for one in inputs
    ]
    real = tuple(f for f in features if f.input.domain == "real")
    synthetic = tuple(f for f in features if f.input.domain == "synthetic")
    moments = tuple(
        MomentsRecipe(subject=subject, features=f.key, precision=settings.moments_precision)
        for f in real
    )
    pca = PcaRecipe(subject=subject, moments=tuple(m.key for m in moments))
    responses = [
        ResponsesRecipe(subject=subject, features=f.key, domain=f.input.domain, pca=pca.key)
        for f in features
    ]
    scores = ScoresRecipe(
        subject=subject,
        pca=pca.key,
        real=tuple(r.key for r in responses if r.domain == "real"),
        synthetic=tuple(r.key for r in responses if r.domain == "synthetic"),
    )
    sigmoid = settings.weights == "sigmoid"
    head = HeadRecipe(
        subject=subject,
        pca=pca.key,
        scores=scores.key,
        weights=settings.weights,
        mu=settings.mu if sigmoid else None,
        tau=settings.tau if sigmoid else None,
        components=tuple(sorted(set(settings.components))),
        centred=settings.centred,
    )
    return LayerPlan(
        subject,
        real,
        synthetic,
        moments,
        pca,
        tuple(r for r in responses if r.domain == "real"),
        tuple(r for r in responses if r.domain == "synthetic"),
        scores,
        head,
    )


def _real_inputs(manifest: Manifest, preprocessing: Preprocessing) -> list[RealInput]:
    return [
        RealInput(
            images=digest,
            n_images=len(segment),
            preprocessing=preprocessing.mode,
            interpolation=preprocessing.interpolation,
            crop_fraction=preprocessing.crop_fraction,
            crop_mode=preprocessing.crop_mode,
        )
        for digest, segment in zip(manifest.recipe.segments, manifest.segments, strict=True)
    ]


def _synthetic_inputs(settings: ScoreSettings) -> list[SyntheticInput]:
    if settings.spec not in SPECS:
        raise InputError(
            f"there is no synthetic spec {settings.spec!r}: choose {' or '.join(SPECS)}."
        )
    n, step = settings.synthetic_images, settings.segment_images
    return [
        SyntheticInput(
            spec=settings.spec,
            spec_version=SPECS[settings.spec],
            seed=settings.noise_seed,
            start=start,
            n_images=min(step, n - start),
        )
        for start in range(0, n, step)
    ]


def _as_pairs(model_args: dict[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, json.dumps(value)) for name, value in model_args.items()))


def _check_selection(n_channels: int, settings: ScoreSettings) -> None:
    beyond = [c for c in settings.components if not 0 <= c < n_channels]
    if beyond:
        raise InputError(
            f"component {beyond[0]} does not exist: the layer has components 0 to {n_channels - 1}."
        )
    if isinstance(settings.mu, float) and settings.mu > n_channels:
        raise InputError(
            f"mu is {settings.mu:g} and the layer has {n_channels} components: choose 0 to "
            f"{n_channels}, or 'threshold'."
        )
