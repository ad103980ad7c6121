"""A task on a data set, cut into units that can be judged anywhere and in any order.

A *task* (`Saliency`, `KnnSegmentation`, `Retrieval`, `Correspondence`) is frozen settings alone.
``task.on(data, model)`` gives an `Evaluation`: picklable, deterministic, with ``n_units`` units. A
unit is what must be seen together: an image, or the two images of a pair. For each unit

* ``evaluation.inputs(unit)`` returns what goes through the network,
* ``evaluation.keep(unit, tokens)`` returns the little that is kept of its tokens, a dict of arrays,

and when all units are done ``evaluation.rows(kept)`` yields per-image values, for one layer and one
head. Units 0 to ``n_references - 1`` are looked up in by the later ones (the training images of
`KnnSegmentation`; none elsewhere): put what is kept of them through ``evaluation.references`` and
give the result to ``keep`` of the others. `evaluate` does all of this for one network in memory.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from soapworks.evaluation.labelled.images import LabelledImages
from soapworks.evaluation.summaries import Measure
from soapworks.evaluation.tasks.geometry import ModelInput, normalised, resized

Arrays = dict[str, NDArray[Any]]
"""What is kept of a unit: names to arrays of numbers."""

Inputs = tuple[NDArray[np.float32], ...]
"""Images of a unit, each (3, height, width), normalised; sizes may differ between images."""


class Row(NamedTuple):
    """One value of one image."""

    image: int
    """Number of the image, or of the pair."""
    group: str
    """Images of one group are not independent."""
    measure: str
    """What was measured; see `soapworks.evaluation.summaries`."""
    value: float


class Evaluation(Protocol):
    """A task on a data set at one model's input size; holds nothing open."""

    @property
    def digest(self) -> str:
        """sha256 of the data: of contents, labels and groups in order."""

    @property
    def n_units(self) -> int:
        """Number of units."""

    @property
    def n_references(self) -> int:
        """Units at the start that are looked up in."""

    @property
    def n_images(self) -> int:
        """Images, or pairs, that have rows in the end."""

    def inputs(self, unit: int) -> Inputs:
        """Return the images of a unit as the network takes them."""

    def keep(
        self,
        unit: int,
        tokens: Sequence[NDArray[Any]],
        *,
        guides: Sequence[NDArray[Any]] | None = None,
        references: Mapping[str, NDArray[Any]] | None = None,
    ) -> Arrays:
        """Return what is kept of a unit.

        Parameters
        ----------
        unit
            Number of the unit.
        tokens
            Of each input (row, column, channel), after the head.
        guides
            Of each input (row, column): response of a component of the tokens before any head.
            Needed where ``task.needs_guide``.
        references
            From ``references``; needed for units from ``n_references`` on, where that is above 0.
        """

    def references(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
        """Put together what was kept of the units 0 to ``n_references - 1``, in their order."""

    def reference_bytes(self, n_channels: int) -> int:
        """Return the most bytes that references take, for one layer and head."""

    def rows(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Row]:
        """Yield the values of all images.

        Parameters
        ----------
        kept
            What was kept of the units from ``n_references`` on, in their order.
        """


@dataclass(frozen=True)
class EachImage:
    """What evaluations share whose units are the images of one set."""

    task: Any
    """Settings; ``resize`` and ``max_side`` among them."""
    data: LabelledImages
    model: ModelInput

    n_references = 0

    @property
    def digest(self) -> str:
        """Digest of images and labels."""
        return self.data.digest

    @property
    def n_units(self) -> int:
        """Number of images."""
        return len(self.data)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.data)

    def inputs(self, unit: int) -> Inputs:
        """Return the image as the network takes it."""
        task = self.task
        image = resized(self.data.image(unit), task.resize, task.max_side, self.model)
        return (normalised(image, self.model),)

    def references(self, kept: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
        """Return nothing: no image is looked up in."""
        return {}

    def reference_bytes(self, n_channels: int) -> int:
        """Return 0."""
        return 0


class Task(Protocol):
    """Settings of a task."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def needs_guide(self) -> bool:
        """Whether ``keep`` needs guides."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Measures that its rows are summarised by, the main one first."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""


def settings_of(task: Any) -> dict[str, Any]:
    """Return the fields of a task as JSON takes them: tuples become lists."""
    return dict(json.loads(json.dumps(asdict(task), allow_nan=False)))


def evaluate(
    evaluation: Evaluation,
    features: Callable[[NDArray[np.float32]], NDArray[Any]],
    *,
    head: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    guide: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> list[Row]:
    """Run an evaluation in memory, one image at a time.

    Parameters
    ----------
    evaluation
        From a task's ``on``.
    features
        (3, height, width) -> (row, column, channel), one layer of a network.
    head
        Tokens -> tokens; None judges them as they are.
    guide
        Tokens before the head -> (row, column), for a guided seed.

    Returns
    -------
    list of Row
    """

    def kept(unit: int, references: Arrays | None) -> Arrays:
        raw = [features(image) for image in evaluation.inputs(unit)]
        guides = None if guide is None else [guide(tokens) for tokens in raw]
        tokens = raw if head is None else [head(tokens) for tokens in raw]
        return evaluation.keep(unit, tokens, guides=guides, references=references)

    n_references = evaluation.n_references
    references = None
    if n_references:
        references = evaluation.references([kept(unit, None) for unit in range(n_references)])
    found = [kept(unit, references) for unit in range(n_references, evaluation.n_units)]
    return list(evaluation.rows(found))
