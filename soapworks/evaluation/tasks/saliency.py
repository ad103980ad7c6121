"""The task of salient objects: TokenCut against masks (section 7 of docs/method.md)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soapworks.errors import InputError
from soapworks.evaluation.bilateral import bilateral_solver
from soapworks.evaluation.labelled.images import LabelledImages
from soapworks.evaluation.measures import f_curve, intersection_over_union, pixel_accuracy
from soapworks.evaluation.saliency import Seed, cosine_quantile, tokencut
from soapworks.evaluation.summaries import Measure
from soapworks.evaluation.tasks.evaluation import Arrays, EachImage, Row, settings_of
from soapworks.evaluation.tasks.geometry import (
    ModelInput,
    Resize,
    check_resize,
)

SEEDS = ("vmax", "guided")


@dataclass(frozen=True)
class Saliency:
    """Settings of zero-shot salient segmentation.

    Rows of each variant (seed, and seed + " refined"): ``<variant> iou``, ``<variant> accuracy``
    and ``<variant> f@<threshold>``, the image's F-measure from that one of 255 thresholds on; rows
    of thresholds at which it stays the same are left out.

    Examples
    --------
    >>> [measure.name for measure in Saliency(seeds=("vmax",)).measures]
    ['vmax iou', 'vmax accuracy', 'vmax f']
    """

    seeds: tuple[Seed, ...] = SEEDS  # type: ignore[assignment]
    """``vmax``, ``guided`` or both; guided needs a guide."""
    refine: bool = False
    """Also judge masks refined by the bilateral solver; about a second per image and seed."""
    threshold: float = 0.3
    """Cosine above which two patches are joined."""
    quantile: float | None = None
    """If given, the threshold of each image is this quantile of the cosines of its patches."""
    resize: Resize = "native"
    """How images become the network's input."""
    max_side: int = 640
    """``native``: longest side, pixels; bounds time and memory, which grow as its 6th and 4th
    power."""

    name = "saliency"

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if not self.seeds or not set(self.seeds) <= set(SEEDS):
            raise InputError(f"seeds = {self.seeds}: choose of {', '.join(SEEDS)}")
        if not -1 <= self.threshold < 1:
            raise InputError(f"threshold = {self.threshold}: give a cosine from -1 to below 1")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise InputError(f"quantile = {self.quantile}: give a share between 0 and 1")
        check_resize(self.resize, self.max_side)

    @property
    def needs_guide(self) -> bool:
        """Whether a guided seed is asked for."""
        return "guided" in self.seeds

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the masks that are judged for each image."""
        return tuple(
            f"{seed}{suffix}"
            for seed in self.seeds
            for suffix in (("", " refined") if self.refine else ("",))
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """IoU, pixel accuracy and maximal F-measure of each variant."""
        return tuple(
            measure
            for variant in self.variants
            for measure in (
                Measure(f"{variant} iou"),
                Measure(f"{variant} accuracy"),
                Measure(f"{variant} f", "max F"),
            )
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return settings_of(self)

    def on(self, data: LabelledImages, model: Any) -> "SaliencyEvaluation":
        """Return the task on images with masks.

        Parameters
        ----------
        data
            From ``read_masks``.
        model
            A `Backbone`, its `BackboneInfo`, or a `ModelInput`.

        Raises
        ------
        InputError
            Images without masks.
        """
        data.require("masks")
        return SaliencyEvaluation(self, data, ModelInput.of(model))


@dataclass(frozen=True)
class SaliencyEvaluation(EachImage):
    """`Saliency` on images with masks; a unit is an image."""

    task: Saliency

    def keep(
        self,
        unit: int,
        tokens: Sequence[NDArray[Any]],
        *,
        guides: Sequence[NDArray[Any]] | None = None,
        references: Mapping[str, NDArray[Any]] | None = None,
    ) -> Arrays:
        """Return IoU, accuracy and F-curve of each variant's mask."""
        (features,) = tokens
        truth = self.data.mask(unit)
        threshold = self.task.threshold
        if self.task.quantile is not None:
            threshold = cosine_quantile(features, self.task.quantile)
        kept: Arrays = {}
        pixels = np.asarray(self.data.image(unit)) if self.task.refine else None
        for seed in self.task.seeds:
            guide = None if seed == "vmax" or guides is None else guides[0]
            mask = tokencut(features, truth.shape, seed=seed, guide=guide, threshold=threshold).mask
            predictions: dict[str, NDArray[Any]] = {seed: mask}
            if pixels is not None:
                predictions[f"{seed} refined"] = bilateral_solver(pixels, mask).values
            for variant, prediction in predictions.items():
                kept[f"{variant} iou"] = np.array(intersection_over_union(prediction, truth))
                kept[f"{variant} accuracy"] = np.array(pixel_accuracy(prediction, truth))
                kept[f"{variant} f"] = f_curve(prediction, truth)
        return kept

    def rows(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Row]:
        """Yield the values of each image."""
        for image, values in enumerate(kept):
            group = self.data.groups[image]
            for variant in self.task.variants:
                for measure in (f"{variant} iou", f"{variant} accuracy"):
                    yield Row(image, group, measure, float(values[measure]))
                curve = values[f"{variant} f"]
                starts = [0, *(1 + np.flatnonzero(np.diff(curve))).tolist()]
                for threshold in starts:
                    yield Row(image, group, f"{variant} f@{threshold}", float(curve[threshold]))
