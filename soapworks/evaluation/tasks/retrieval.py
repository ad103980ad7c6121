"""The task of finding images of the same class by their pooled patch tokens."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soapworks.errors import InputError
from soapworks.evaluation.labelled.images import LabelledImages
from soapworks.evaluation.neighbours import retrieve
from soapworks.evaluation.summaries import Measure
from soapworks.evaluation.tasks.evaluation import Arrays, EachImage, Row, settings_of
from soapworks.evaluation.tasks.geometry import (
    ModelInput,
    Resize,
    check_resize,
)


@dataclass(frozen=True)
class Retrieval:
    """Settings of retrieval among all other images.

    Rows of each image whose class has another image: ``average precision`` and ``top-1`` (0 or 1,
    whether the nearest other image is of its class). Images that are alone in their class are
    distractors of the others.
    """

    independent: Literal["images", "classes"] = "images"
    """What is drawn anew for intervals. ``classes`` where classes are single objects or places with
    few images each: those find each other, and are no independent observations."""
    resize: Resize = "model"
    """How images become the network's input."""
    max_side: int = 640
    """``native``: longest side, pixels."""

    name = "retrieval"
    needs_guide = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.independent not in ("images", "classes"):
            raise InputError(f"independent = {self.independent!r}: choose images or classes")
        check_resize(self.resize, self.max_side)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Mean average precision and top-1 accuracy."""
        return (Measure("average precision"), Measure("top-1"))

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return settings_of(self)

    def on(self, data: LabelledImages, model: Any) -> "RetrievalEvaluation":
        """Return the task on images with classes.

        Parameters
        ----------
        data
            From ``read_classes``.
        model
            A `Backbone`, its `BackboneInfo`, or a `ModelInput`.

        Raises
        ------
        InputError
            Images without classes, or no class with two images.
        """
        data.require("classes")
        if max(Counter(data.labels).values()) < 2:
            raise InputError(
                f"no class in {data.folder.url} has two images, so nothing can be retrieved; add "
                "images"
            )
        return RetrievalEvaluation(self, data, ModelInput.of(model))


@dataclass(frozen=True)
class RetrievalEvaluation(EachImage):
    """`Retrieval` on folders of classes; a unit is an image."""

    task: Retrieval

    def keep(
        self,
        unit: int,
        tokens: Sequence[NDArray[Any]],
        *,
        guides: Sequence[NDArray[Any]] | None = None,
        references: Mapping[str, NDArray[Any]] | None = None,
    ) -> Arrays:
        """Return the mean token, (channel,) float64."""
        (features,) = tokens
        return {"pooled": np.asarray(features, np.float64).mean(axis=(0, 1))}

    def rows(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Row]:
        """Yield the values of each image that has another of its class."""
        found = retrieve(np.stack([values["pooled"] for values in kept]), self.data.labels)
        by_class = self.task.independent == "classes"
        for image, precision in enumerate(found.average_precision.tolist()):
            if np.isnan(precision):
                continue
            group = (self.data.labels if by_class else self.data.groups)[image]
            yield Row(image, group, "average precision", precision)
            yield Row(image, group, "top-1", float(found.top_1[image]))
