"""The task of labelling patches by their nearest neighbours in training images."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soapworks.errors import InputError
from soapworks.evaluation.labelled.images import LabelledImages
from soapworks.evaluation.neighbours import Distance, nearest_neighbours, vote
from soapworks.evaluation.saliency import upsample_nearest
from soapworks.evaluation.summaries import Measure
from soapworks.evaluation.tasks.evaluation import Arrays, Inputs, Row, settings_of
from soapworks.evaluation.tasks.geometry import (
    ModelInput,
    Resize,
    check_resize,
    normalised,
    patch_labels,
    resized,
)
from soapworks.names import printable

DISTANCES = ("cosine", "euclidean")


@dataclass(frozen=True)
class KnnSegmentation:
    """Settings of semantic segmentation by k nearest patches.

    Each patch of a validation image takes the vote of its k nearest training patches; labels are
    enlarged to the label map by nearest neighbours. Rows of each image and class: pixels of
    ``intersection <class>``, ``union <class>`` and ``truth <class>``.

    The search is exact: blocks of queries against the whole bank.
    """

    k: int = 20
    """Neighbours that vote."""
    distance: Distance = "cosine"
    patches_per_image: int | None = 64
    """Training patches drawn per image; None keeps all. The bank takes images x patches x channels
    x 4 bytes of memory, for each layer and head that is judged at the same time."""
    seed: int = 0
    """Seed of the draw."""
    resize: Resize = "model"
    """How images become the network's input."""
    max_side: int = 640
    """``native``: longest side, pixels."""

    name = "knn-segmentation"
    needs_guide = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.k < 1:
            raise InputError(f"k = {self.k}: give 1 neighbour or more")
        if self.distance not in DISTANCES:
            raise InputError(f"distance = {self.distance!r}: choose {' or '.join(DISTANCES)}")
        if self.patches_per_image is not None and self.patches_per_image < 1:
            raise InputError(f"patches_per_image = {self.patches_per_image}: give 1 or more")
        check_resize(self.resize, self.max_side)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Mean IoU over classes and pixel accuracy, both over the whole set."""
        return (Measure("mIoU", "mean IoU"), Measure("pixel accuracy", "pixel accuracy"))

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return settings_of(self)

    def on(
        self, data: LabelledImages, model: Any, *, train: LabelledImages
    ) -> "KnnSegmentationEvaluation":
        """Return the task on images with label maps.

        Parameters
        ----------
        data
            Validation images, from ``read_label_maps``.
        model
            A `Backbone`, its `BackboneInfo`, or a `ModelInput`.
        train
            Training images.

        Raises
        ------
        InputError
            Images without label maps, images in both sets, one training class only, or labels in
            the validation maps that no training map has.
        """
        data.require("label maps")
        train.require("label maps")
        _check_sets(data, train)
        return KnnSegmentationEvaluation(self, data, train, ModelInput.of(model))


def _check_sets(data: LabelledImages, train: LabelledImages) -> None:
    places = {digest: place for place, digest in enumerate(train.image_digests)}
    both = [place for place, digest in enumerate(data.image_digests) if digest in places]
    if both:
        first = data.images[both[0]]
        raise InputError(
            f"{len(both)} of {len(data)} validation images are training images too (first: "
            f"{printable(first)}); give two sets without common images"
        )
    if len(train.values) < 2:
        raise InputError(
            f"the training maps in {train.folder.url} hold one class only, {train.values[0]}, so "
            "every patch would be labelled alike; give two classes or more"
        )
    unknown = sorted(set(data.values) - set(train.values) - set(data.rule.ignore))
    if unknown and data.rule.known is None:
        shown = ", ".join(map(str, unknown[:4])) + (", ..." if len(unknown) > 4 else "")
        raise InputError(
            f"the validation maps in {data.folder.url} hold labels that no training map has "
            f"({shown}); ignore them, or add training images that have them"
        )


@dataclass(frozen=True)
class KnnSegmentationEvaluation:
    """`KnnSegmentation` on two sets; a unit is an image, those of the training set first."""

    task: KnnSegmentation
    data: LabelledImages
    train: LabelledImages
    model: ModelInput

    @property
    def digest(self) -> str:
        """Digest of both sets."""
        both = f"{self.train.digest} {self.data.digest}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def n_references(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def n_units(self) -> int:
        """Number of images of both sets."""
        return len(self.train) + len(self.data)

    @property
    def n_images(self) -> int:
        """Number of validation images."""
        return len(self.data)

    def inputs(self, unit: int) -> Inputs:
        """Return the image as the network takes it."""
        data, number = self._place(unit)
        image = resized(data.image(number), self.task.resize, self.task.max_side, self.model)
        return (normalised(image, self.model),)

    def keep(
        self,
        unit: int,
        tokens: Sequence[NDArray[Any]],
        *,
        guides: Sequence[NDArray[Any]] | None = None,
        references: Mapping[str, NDArray[Any]] | None = None,
    ) -> Arrays:
        """Return drawn patches of a training image, or pixel counts of a validation image."""
        (features,) = tokens
        _, number = self._place(unit)
        if unit < len(self.train):
            return self._drawn(number, features)
        if references is None:
            raise InputError("patches are looked up in references, which are missing")
        grid = features.shape[:2]
        bank, labels = references["tokens"], references["labels"]
        flat = features.reshape(-1, features.shape[-1])
        near = nearest_neighbours(flat, bank, self.task.k, distance=self.task.distance)
        truth = self.data.label_map(number)
        found = upsample_nearest(vote(labels, near).reshape(grid), truth.shape)
        return _pixel_counts(found, truth, self.data.rule.ignore)

    def references(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
        """Return the bank: tokens (entry, channel) float32 and labels (entry,)."""
        if len(kept) != len(self.train):
            raise InputError(f"{len(kept)} training images were kept of {len(self.train)}")
        tokens = np.concatenate([part["tokens"] for part in kept])
        if len(tokens) < self.task.k:
            raise InputError(
                f"k = {self.task.k}, and the training images have {len(tokens)} labelled patches "
                "that count; lower k or give more images"
            )
        return {"tokens": tokens, "labels": np.concatenate([part["labels"] for part in kept])}

    def reference_bytes(self, n_channels: int) -> int:
        """Return the bytes of the bank, at most: tokens in float32."""
        (height, width), patch = self.model.image_size, self.model.patch_size
        most = (height // patch[0]) * (width // patch[1])
        if self.task.resize == "native":
            most = ceil(self.task.max_side / patch[0]) * ceil(self.task.max_side / patch[1])
        if self.task.patches_per_image is not None:
            most = min(most, self.task.patches_per_image)
        return len(self.train) * most * (4 * n_channels + 8)

    def rows(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Row]:
        """Yield pixel counts of each image and class."""
        for image, counts in enumerate(kept):
            group = self.data.groups[image]
            for place, label in enumerate(counts["classes"].tolist()):
                for part in ("intersection", "union", "truth"):
                    yield Row(image, group, f"{part} {label}", float(counts[part][place]))

    def _place(self, unit: int) -> tuple[LabelledImages, int]:
        n_train = len(self.train)
        return (self.train, unit) if unit < n_train else (self.data, unit - n_train)

    def _drawn(self, number: int, features: NDArray[Any]) -> Arrays:
        labels, counted = patch_labels(
            self.train.label_map(number), features.shape[:2], self.train.rule.ignore
        )
        chosen = np.flatnonzero(counted)
        most = self.task.patches_per_image
        if most is not None and most < len(chosen):
            rng = np.random.default_rng([self.task.seed, number])
            chosen = np.sort(rng.choice(chosen, most, replace=False))
        flat = features.reshape(-1, features.shape[-1])
        return {
            "tokens": flat[chosen].astype(np.float32),
            "labels": labels.reshape(-1)[chosen],
        }


def _pixel_counts(
    found: NDArray[np.int64], truth: NDArray[np.int64], ignore: tuple[int, ...]
) -> Arrays:
    """Return intersection, union and truth in pixels of each class that either map has."""
    counted = ~np.isin(truth, ignore)
    predicted, true = found[counted], truth[counted]
    classes, places = np.unique(np.concatenate([predicted, true]), return_inverse=True)
    of_prediction, of_truth = np.split(places, 2)
    n = len(classes)
    in_prediction = np.bincount(of_prediction, minlength=n)
    in_truth = np.bincount(of_truth, minlength=n)
    both = np.bincount(of_truth[of_truth == of_prediction], minlength=n)
    return {
        "classes": classes,
        "intersection": both,
        "union": in_prediction + in_truth - both,
        "truth": in_truth,
    }
