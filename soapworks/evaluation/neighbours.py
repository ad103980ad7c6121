"""Nearest neighbours: labels of patches by vote, and retrieval of whole images."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

BLOCK_BYTES = 64 << 20
"""Most bytes of similarities held at once, but for a small factor."""

MAX_QUERIES = 1024
"""Queries that are looked up at a time."""

Distance = Literal["cosine", "euclidean"]


def nearest_neighbours(
    queries: ArrayLike, bank: ArrayLike, k: int, *, distance: Distance = "cosine"
) -> NDArray[np.int64]:
    """Find the k nearest rows of a bank, exactly.

    Blocks of the bank are compared in float64, so that memory stays bounded and the result depends
    on neither the block nor a library's rounding. Approximate or float32 indices (faiss) order near
    ties otherwise, and are not used.

    Parameters
    ----------
    queries
        (query, channel).
    bank
        (entry, channel).
    k
        Neighbours, 1 to the number of entries.
    distance
        "cosine", or "euclidean".

    Returns
    -------
    ndarray
        (query, k) int64: entries, the nearest first; of equal ones the lower entry first.

    Raises
    ------
    InputError
        For other shapes, NaN, infinity, a k out of range, or a cosine of tokens of length 0.

    Examples
    --------
    >>> nearest_neighbours([[1.0, 0.1]], [[0.0, 1.0], [2.0, 0.0]], 1).tolist()
    [[1]]
    """
    rows, entries = _tokens(queries, distance), np.asarray(bank)
    if entries.ndim != 2 or not entries.size:
        raise InputError(f"the bank must be (entry, channel), one or more, not {entries.shape}")
    if rows.shape[1] != entries.shape[1]:
        raise InputError(
            f"queries have {rows.shape[1]} channels and the bank has {entries.shape[1]}"
        )
    if not 1 <= k <= len(entries):
        raise InputError(f"k = {k}: the bank has {len(entries)} entries; give 1 to that number")
    found = np.empty((len(rows), k), np.int64)
    for start in range(0, len(rows), MAX_QUERIES):
        some = slice(start, start + MAX_QUERIES)
        found[some] = _nearest(rows[some], entries, k, distance)
    return found


def _nearest(
    rows: NDArray[np.float64], bank: NDArray[np.floating], k: int, distance: Distance
) -> NDArray[np.int64]:
    nearest = np.empty((len(rows), 0), np.int64)
    farness = np.empty((len(rows), 0))
    step = max(1, BLOCK_BYTES // (8 * max(rows.shape)))
    for start in range(0, len(bank), step):
        entries = _tokens(bank[start : start + step], distance)
        values = -(rows @ entries.T)
        if distance == "euclidean":
            values += np.einsum("nd,nd->n", entries, entries) / 2
        # Those found so far have lower numbers and stand first, so equal ones keep their order.
        values = np.concatenate([farness, values], axis=1)
        places = np.arange(start, start + len(entries))
        n_kept = min(k, values.shape[1])
        limit = np.partition(values, n_kept - 1, axis=1)[:, n_kept - 1 : n_kept]
        kept = np.empty((len(rows), n_kept), np.int64)
        for row, (of_row, near) in enumerate(zip(values, values <= limit, strict=True)):
            chosen = np.flatnonzero(near)
            kept[row] = chosen[np.argsort(of_row[chosen], kind="stable")[:n_kept]]
        farness = np.take_along_axis(values, kept, axis=1)
        numbers = np.concatenate(
            [nearest, np.broadcast_to(places, (len(rows), len(places)))], axis=1
        )
        nearest = np.take_along_axis(numbers, kept, axis=1)
    return nearest


def vote(labels: ArrayLike, neighbours: ArrayLike) -> NDArray[np.int64]:
    """Label each query as most of its neighbours are; among equals, as the nearest of them.

    Parameters
    ----------
    labels
        (entry,): label of each entry of the bank, any integers.
    neighbours
        (query, k): entries, the nearest first.

    Examples
    --------
    >>> vote([7, 8, 8], [[0, 1, 2], [0, 1, 1]]).tolist()
    [8, 8]
    """
    values = np.asarray(labels)[np.asarray(neighbours)]
    counts = (values[:, :, None] == values[:, None, :]).sum(axis=2)
    return values[np.arange(len(values)), counts.argmax(axis=1)].astype(np.int64)


@dataclass(frozen=True)
class Segmentation:
    """Agreement of label maps over a whole validation set."""

    mean_iou: float
    """Mean over the classes that the truth has."""
    pixel_accuracy: float
    class_iou: dict[int, float]
    """Class -> intersection over union."""


class SegmentationTotals:
    """Sums pixels of label maps, image by image.

    Parameters
    ----------
    ignore
        Labels of the truth that do not count.

    Examples
    --------
    >>> totals = SegmentationTotals(ignore=(255,))
    >>> totals.add([[1, 1, 2]], [[1, 2, 255]])
    >>> totals.result()
    Segmentation(mean_iou=0.25, pixel_accuracy=0.5, class_iou={1: 0.5, 2: 0.0})
    """

    def __init__(self, *, ignore: tuple[int, ...] = ()) -> None:
        self.ignore = ignore
        self._pixels: dict[tuple[int, int], int] = {}

    def add(self, prediction: ArrayLike, truth: ArrayLike) -> None:
        """Add one image: two maps (height, width) of integer labels.

        Raises
        ------
        InputError
            For shapes that differ or labels that are no integers.
        """
        found, true = np.asarray(prediction), np.asarray(truth)
        if found.shape != true.shape or found.ndim != 2:
            raise InputError(
                f"the prediction has the shape {found.shape} and the label map {true.shape}"
            )
        if found.dtype.kind not in "iu" or true.dtype.kind not in "iu":
            raise InputError(f"labels must be integers, not {found.dtype} and {true.dtype}")
        counted = ~np.isin(true, self.ignore)
        pairs, n_pixels = np.unique(
            np.stack([true[counted], found[counted]]).astype(np.int64), axis=1, return_counts=True
        )
        for (label, other), n in zip(pairs.T.tolist(), n_pixels.tolist(), strict=True):
            self._pixels[label, other] = self._pixels.get((label, other), 0) + n

    def result(self) -> Segmentation:
        """Return the measures of all images together.

        Raises
        ------
        InputError
            Where no pixel counted.
        """
        if not self._pixels:
            raise InputError("no pixel has a label that counts; check the ignored labels")
        of_truth: dict[int, int] = {}
        of_prediction: dict[int, int] = {}
        for (label, other), n in self._pixels.items():
            of_truth[label] = of_truth.get(label, 0) + n
            of_prediction[other] = of_prediction.get(other, 0) + n
        class_iou = {}
        for label in sorted(of_truth):
            both = self._pixels.get((label, label), 0)
            class_iou[label] = both / (of_truth[label] + of_prediction.get(label, 0) - both)
        right = sum(n for (label, other), n in self._pixels.items() if label == other)
        return Segmentation(
            float(np.mean(list(class_iou.values()))), right / sum(of_truth.values()), class_iou
        )


class Retrieval(NamedTuple):
    """Retrieval of each image among all others of its set."""

    top_1: NDArray[np.bool_]
    """(image,): whether the nearest other image has the same label."""
    average_precision: NDArray[np.float64]
    """(image,): over all others with its label; NaN where there is none."""


def retrieve(embeddings: ArrayLike, labels: ArrayLike) -> Retrieval:
    """Look each image up among all others, by cosine.

    Parameters
    ----------
    embeddings
        (image, channel): pooled patch tokens.
    labels
        (image,): any labels.

    Raises
    ------
    InputError
        For fewer than two images, lengths that differ, one label only, NaN, infinity or embeddings
        of length 0.

    Examples
    --------
    >>> retrieve([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], list("aabb")).average_precision.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    tokens, names = _tokens(embeddings, "cosine"), np.asarray(labels)
    if names.shape != tokens.shape[:1] or len(tokens) < 2:
        raise InputError(
            f"{len(tokens)} embeddings and {names.shape} labels; give a label to each of 2 images "
            "or more"
        )
    if len(np.unique(names)) < 2:
        raise InputError("all images have the same label, so any retrieval would be right")
    top_1, precision = np.empty(len(tokens), bool), np.full(len(tokens), np.nan)
    step = max(1, BLOCK_BYTES // (8 * len(tokens)))
    for start in range(0, len(tokens), step):
        farness = -(tokens[start : start + step] @ tokens.T)
        for image, values in enumerate(farness, start):
            entries = np.argsort(values, kind="stable")
            same = names[entries[entries != image]] == names[image]
            top_1[image] = same[0]
            if same.any():
                ranks = np.flatnonzero(same) + 1
                precision[image] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return Retrieval(top_1, precision)


def _tokens(values: ArrayLike, distance: str) -> NDArray[np.float64]:
    if distance not in ("cosine", "euclidean"):
        raise InputError(f"distance = {distance!r}: choose cosine or euclidean")
    tokens = np.asarray(values, np.float64)
    if tokens.ndim != 2 or not tokens.size:
        raise InputError(f"tokens must be (token, channel), one or more, not {tokens.shape}")
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise InputError("tokens hold NaN or infinity; leave out the images they come from")
    if distance == "euclidean":
        return tokens
    if not lengths.all():
        raise InputError("tokens of length 0 have no cosine; use distance = euclidean")
    return tokens / lengths
