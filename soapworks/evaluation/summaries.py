"""From values of single images to measures of a set, and to intervals of their difference.

Values stand in long tables: image, group, measure, value. A `Measure` says which of them it reads
and which statistic of their sums over images it is, so that each measure is bootstrapped as what it
is: a mean of values, the largest mean F-measure over thresholds, or a mean IoU over classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError
from soapworks.evaluation.intervals import Comparison, compare_sums
from soapworks.evaluation.measures import N_THRESHOLDS


@dataclass(frozen=True)
class Measure:
    """One number of a set of images."""

    name: str
    """What it is called in tables, such as ``vmax iou``."""
    statistic: Literal["mean", "max F", "mean IoU", "pixel accuracy"] = "mean"
    """``mean``: of the rows of this name. ``max F``: rows ``<name>@<threshold>``, the per-image
    F-measure from that threshold on. ``mean IoU`` and ``pixel accuracy``: rows ``intersection
    <class>``, ``union <class>`` and ``truth <class>``, in pixels."""
    larger_is_better: bool = True


class Values:
    """A table of values, sorted so that measures are found quickly.

    Parameters
    ----------
    table
        Columns ``image``, ``group``, ``measure`` and ``value``: a data frame, or a mapping of
        arrays.

    Examples
    --------
    >>> values = Values.of_rows([(0, "a", "iou", 0.5), (1, "b", "iou", 1.0)])
    >>> values.summarise(Measure("iou"))
    0.75
    """

    def __init__(self, table: Mapping[str, Any] | Any) -> None:
        images = np.asarray(table["image"], np.int64)
        self.images, self._first, self._place = np.unique(
            images, return_index=True, return_inverse=True
        )
        """Numbers of the images that have values."""
        self.groups = np.asarray(table["group"], object)[self._first]
        """Group of each image."""
        self._names, self._measure = np.unique(
            np.asarray(table["measure"], str), return_inverse=True
        )
        self._values = np.asarray(table["value"], np.float64)

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[int, str, str, float]]) -> "Values":
        """Return the table of rows (image, group, measure, value)."""
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        return cls(dict(zip(("image", "group", "measure", "value"), columns, strict=True)))

    @property
    def measures(self) -> list[str]:
        """Names of all rows, sorted."""
        return [str(name) for name in self._names]

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one name's value of each image, NaN where an image has none."""
        column = np.full(len(self.images), np.nan)
        place = np.searchsorted(self._names, name)
        if place < len(self._names) and self._names[place] == name:
            chosen = self._measure == place
            column[self._place[chosen]] = self._values[chosen]
        return column

    def summarise(self, measure: Measure) -> float:
        """Return a measure over all images that have it.

        Raises
        ------
        InputError
            Where no image has it.
        """
        parts = self.parts(measure)
        return float(_statistic(measure, parts.shape[1])(parts.sum(axis=0)))

    def parts(self, measure: Measure, classes: list[str] | None = None) -> NDArray[np.float64]:
        """Return (image, column): what is summed over images before the statistic.

        Parameters
        ----------
        measure
            The measure.
        classes
            Classes of ``mean IoU``, in order; None: those that are there.

        Raises
        ------
        InputError
            Where no image has it.
        """
        if measure.statistic == "mean":
            value = self.column(measure.name)
            has = np.isfinite(value)
            columns = [np.where(has, value, 0), has]
        elif measure.statistic == "max F":
            curve = np.full((len(self.images), N_THRESHOLDS), np.nan)
            for threshold in range(N_THRESHOLDS):
                value = self.column(f"{measure.name}@{threshold}")
                before = curve[:, threshold - 1] if threshold else value
                curve[:, threshold] = np.where(np.isnan(value), before, value)
            has = np.isfinite(curve[:, 0])
            columns = [*np.where(has[:, None], curve, 0).T, has]
        else:
            classes = self.classes() if classes is None else classes
            columns = [
                np.nan_to_num(self.column(f"{part} {label}"))
                for part in ("intersection", "union", "truth")
                for label in classes
            ]
            has = np.array([True])
        if not has.any() or not columns:
            there = ", ".join(self.measures[:8])
            raise InputError(f"no image has a value of {measure.name!r}; there are {there}")
        return np.stack(columns, axis=1).astype(np.float64)

    def classes(self) -> list[str]:
        """Return the classes that have rows of pixels."""
        prefix = "union "
        return [name.removeprefix(prefix) for name in self.measures if name.startswith(prefix)]


def compare_values(measure: Measure, raw: Values, head: Values, *, seed: int = 0) -> Comparison:
    """Compare a measure of the same images without and with a head.

    Parameters
    ----------
    measure
        The measure; ``helps`` means better, also where less is better.
    raw, head
        Values of the same images.
    seed
        Seed of the resampling.

    Raises
    ------
    InputError
        Where images or groups differ, or fewer than two groups have the measure.

    Examples
    --------
    >>> rows = [(n, str(n), "iou", n / 50) for n in range(40)]
    >>> better = [(n, str(n), "iou", n / 50 + 0.1) for n in range(40)]
    >>> compare_values(Measure("iou"), Values.of_rows(rows), Values.of_rows(better)).verdict
    'helps'
    """
    if raw.images.tolist() != head.images.tolist() or raw.groups.tolist() != head.groups.tolist():
        raise InputError(
            f"the two tables hold different images, {len(raw.images)} and {len(head.images)}; "
            "compare values of the same data"
        )
    classes = None
    if measure.statistic in ("mean IoU", "pixel accuracy"):
        classes = sorted({*raw.classes(), *head.classes()})
    before, after = (values.parts(measure, classes) for values in (raw, head))
    has = np.ones(len(before), bool)
    if measure.statistic in ("mean", "max F"):
        has = (before[:, -1] > 0) & (after[:, -1] > 0)
        if has.sum() < max(before[:, -1].sum(), after[:, -1].sum()):
            raise InputError(f"some images have {measure.name!r} in one table only")
    found = compare_sums(
        before[has],
        after[has],
        _statistic(measure, before.shape[1]),
        groups=raw.groups[has].astype(str),
        seed=seed,
    )
    return replace(found, larger_is_better=measure.larger_is_better)


def _statistic(measure: Measure, n_columns: int) -> Any:
    if measure.statistic == "mean":
        return lambda sums: sums[..., 0] / sums[..., 1]
    if measure.statistic == "max F":
        return lambda sums: (sums[..., :-1] / sums[..., -1:]).max(axis=-1)
    n = n_columns // 3
    if measure.statistic == "pixel accuracy":
        return lambda sums: sums[..., :n].sum(axis=-1) / sums[..., 2 * n :].sum(axis=-1)

    def mean_iou(sums: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(sums)
        both, either, truth = values[..., :n], values[..., n : 2 * n], values[..., 2 * n :]
        counted = truth > 0
        iou = np.divide(both, either, out=np.zeros(both.shape), where=counted)
        return np.asarray(iou.sum(axis=-1) / counted.sum(axis=-1))

    return mean_iou
