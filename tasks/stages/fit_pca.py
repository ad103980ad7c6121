"""PCA out of core: moments of blocks from the stored features, merged as a tree, one eigh."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from soapworks.errors import CollapsedFeaturesError
from soapworks.method.moments import Moments
from soapworks.method.pca import Pca
from soapworks.method.pca import fit_pca as fit
from soapworks.storage_schemas.layout.arrays import GROUP, read_arrays, write_arrays
from soapworks.storage_schemas.layout.recipes import MomentsRecipe, PcaRecipe, Subject
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.plan.precision import float16_fact
from soapworks.tasks.stages.stored_features import blocks_of, compute_on, open_features, pieces_of

if TYPE_CHECKING:
    from soapworks.tasks.executors.cluster import Cluster


@dataclass(frozen=True)
class BlockMoments:
    """The moments of a block of stored features, wherever they are computed."""

    features: Product
    recipe: MomentsRecipe

    def __call__(self, spans: Sequence[tuple[int, int]]) -> Moments:
        """Return the moments of a block, given as its ranges of images."""
        n_channels = open_features(self.features).shape[-1]
        return moments_of(pieces_of(self.features, spans), n_channels, self.recipe)


def make_moments(
    store: Store,
    recipe: MomentsRecipe,
    features: Product,
    *,
    memory: int,
    workers: int,
    cluster: "Cluster | None" = None,
) -> Product:
    """Return count, mean and scatter of one segment's tokens.

    Memory stays below ``memory`` at any number of images: every thread takes a range of images at
    a time, and blocks are merged pairwise by Chan's formula, always in the same order.
    """

    def make(attempt: Attempt) -> dict[str, Any]:
        at = compute_on(features, memory=memory, workers=workers, cluster=cluster)
        total = at.tree(BlockMoments(features, recipe), blocks_of(features), merged)
        return write_moments(attempt, total)

    return get_or_make(store, recipe, make)


def moments_of(pieces: Iterable[Any], n_channels: int, recipe: MomentsRecipe) -> Moments:
    """Return the moments of a block, given in pieces (image, row, column, channel)."""
    moments = Moments(n_channels, precision=recipe.precision)
    for piece in pieces:
        moments.update(piece)
    return moments


def write_moments(attempt: Attempt, total: Moments) -> dict[str, Any]:
    """Write a segment's moments and return the facts for its record."""
    write_arrays(
        attempt.writer.zarr_group(GROUP, mode="w"),
        "moments",
        {"count": np.int64(total.count), "mean": total.mean, "scatter": total.scatter},
    )
    return {"n_tokens": int(total.count)}


def merged(one: Moments, other: Moments) -> Moments:
    """Return the moments of two parts together."""
    one.merge(other)
    return one


def make_pca(store: Store, recipe: PcaRecipe, moments: Sequence[Product]) -> Product:
    """Return the principal components of all segments' tokens together."""

    def make(attempt: Attempt) -> dict[str, Any]:
        total = read_moments(moments[0])
        for product in moments[1:]:
            total.merge(read_moments(product))
        # One thread, so that the components do not depend on the number of cores.
        with threadpool_limits(1), naming(recipe.subject):
            pca = fit(total)
        write_arrays(
            attempt.writer.zarr_group(GROUP, mode="w"),
            "pca",
            {
                "count": np.int64(pca.count),
                "mean": pca.mean,
                "components": pca.components,
                "explained_variance": pca.explained_variance,
            },
        )
        variance = np.diag(total.scatter) / max(1, total.count - 1)
        return {
            "n_tokens": int(pca.count),
            "n_components": len(pca.components),
            "float16": float16_fact(total.mean, variance),
        }

    return get_or_make(store, recipe, make)


@contextmanager
def naming(subject: Subject) -> Iterator[None]:
    """Name the layer in the error of features that do not vary."""
    try:
        yield
    except CollapsedFeaturesError as error:
        raise CollapsedFeaturesError(
            f"layer {subject.layer} of {subject.architecture}: {error}"
        ) from error


def read_moments(product: Product) -> Moments:
    """Return the moments that a product holds."""
    arrays = read_arrays(product.open_zarr(), "moments")
    return Moments.from_parts(int(arrays["count"]), arrays["mean"], arrays["scatter"])


def read_pca(product: Product) -> Pca:
    """Return the principal components that a product holds."""
    arrays = read_arrays(product.open_zarr(), "pca")
    return Pca(
        mean=arrays["mean"],
        components=arrays["components"],
        explained_variance=arrays["explained_variance"],
        count=int(arrays["count"]),
    )
