"""The task of dense correspondence without labels (section 11 of docs/method.md)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soapworks.errors import InputError
from soapworks.evaluation.correspondence import CropPair, correspondence, draw_crop_pair
from soapworks.evaluation.labelled.images import LabelledImages
from soapworks.evaluation.summaries import Measure
from soapworks.evaluation.tasks.evaluation import Arrays, Inputs, Row, settings_of
from soapworks.evaluation.tasks.geometry import ModelInput, normalised


@dataclass(frozen=True)
class Correspondence:
    """Settings of correspondence between shifted crops of photographs.

    Rows of each pair: ``pck@1``, the share of patches whose nearest neighbour is at most one patch
    from the true partner, and ``same place``, the share whose neighbour stands at the same place of
    the grid, where less is better: a pure position code has 1. Pairs of one photograph are one
    group.
    """

    pairs_per_image: int = 4
    """Pairs drawn from each photograph."""
    scale: tuple[float, float] = (1.5, 3.0)
    """Shorter side of the photograph when it is cropped, in sides of a crop: drawn uniformly from
    this range for each pair, so that content appears at several scales."""
    seed: int = 0
    """Seed of scales, offsets and places."""

    name = "correspondence"
    needs_guide = False

    def __post_init__(self) -> None:
        """Check the settings."""
        low, high = (float(side) for side in self.scale)
        object.__setattr__(self, "scale", (low, high))
        if self.pairs_per_image < 1:
            raise InputError(f"pairs_per_image = {self.pairs_per_image}: give 1 or more")
        if not 1.25 <= low <= high <= 8:
            raise InputError(f"scale = {self.scale}: give two numbers from 1.25 to 8, in order")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """PCK within one patch, and the share that a position code would have."""
        return (Measure("pck@1"), Measure("same place", larger_is_better=False))

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return settings_of(self)

    def on(self, data: LabelledImages, model: Any) -> "CorrespondenceEvaluation":
        """Return the task on photographs; labels, if there are some, are not looked at.

        Parameters
        ----------
        data
            From ``read_photographs``, or any other.
        model
            A `Backbone`, its `BackboneInfo`, or a `ModelInput`.

        Raises
        ------
        InputError
            A model whose grid has fewer than 4 x 4 patches: no room for shifted crops.
        """
        found = ModelInput.of(model)
        grid = [
            side // patch for side, patch in zip(found.image_size, found.patch_size, strict=True)
        ]
        if min(grid) < 4:
            raise InputError(
                f"the model's grid of {grid[0]} x {grid[1]} patches is too small for shifted "
                "crops; 4 x 4 are needed"
            )
        return CorrespondenceEvaluation(self, data, found)


@dataclass(frozen=True)
class CorrespondenceEvaluation:
    """`Correspondence` on photographs; a unit is a pair of crops."""

    task: Correspondence
    data: LabelledImages
    model: ModelInput

    n_references = 0

    @property
    def digest(self) -> str:
        """Digest of the photographs."""
        return self.data.digest

    @property
    def n_units(self) -> int:
        """Number of pairs."""
        return len(self.data) * self.task.pairs_per_image

    @property
    def n_images(self) -> int:
        """Number of pairs."""
        return self.n_units

    def inputs(self, unit: int) -> Inputs:
        """Return the two crops as the network takes them."""
        size, pair = self.pair(unit)
        image = self.data.image(unit // self.task.pairs_per_image)
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        height, width = self.model.image_size
        first, second = (
            image.crop((left, top, left + width, top + height))
            for top, left in (pair.first, pair.second)
        )
        return normalised(first, self.model), normalised(second, self.model)

    def pair(self, unit: int) -> tuple[tuple[int, int], CropPair]:
        """Return (height, width) that the photograph is resized to, and the two crops."""
        number, place = divmod(unit, self.task.pairs_per_image)
        rng = np.random.default_rng([self.task.seed, number, place])
        size, crop = self.data.sizes[number], self.model.image_size
        # The side that is short for its crop decides.
        scale = rng.uniform(*self.task.scale) * max(
            wanted / side for wanted, side in zip(crop, size, strict=True)
        )
        height, width = (ceil(side * scale) for side in size)
        pair = draw_crop_pair((height, width), crop, self.model.patch_size, rng)
        return (height, width), pair

    def keep(
        self,
        unit: int,
        tokens: Sequence[NDArray[Any]],
        *,
        guides: Sequence[NDArray[Any]] | None = None,
        references: Mapping[str, NDArray[Any]] | None = None,
    ) -> Arrays:
        """Return the shares of the pair."""
        first, second = tokens
        found = correspondence(first, second, self.pair(unit)[1].offset)
        return {"pck@1": np.array(found.pck), "same place": np.array(found.same_place)}

    def references(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
        """Return nothing: no image is looked up in."""
        return {}

    def reference_bytes(self, n_channels: int) -> int:
        """Return 0."""
        return 0

    def rows(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Row]:
        """Yield the shares of each pair."""
        for unit, values in enumerate(kept):
            group = self.data.groups[unit // self.task.pairs_per_image]
            for measure in self.task.measures:
                yield Row(unit, group, measure.name, float(values[measure.name]))
