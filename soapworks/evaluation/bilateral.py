"""The fast bilateral solver: a mask that follows the edges of its image."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError

CONFIDENCE = 0.999
"""Weight of each pixel of the mask that is refined."""

SMOOTHNESS = 256.0
"""Weight of the smoothness term, lambda."""

MAX_ITERATIONS = 25
TOLERANCE = 1e-5
"""Limits of the conjugate-gradient iterations; the tolerance is relative."""

LEAST_DIAGONAL = 1e-5
"""Smallest entry of the preconditioner."""

BISTOCHASTIC_ITERATIONS = 10
"""Iterations that make the blur's rows and columns sum to the same."""

_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@dataclass(frozen=True)
class Refined:
    """A mask after the solver."""

    values: NDArray[np.float64]
    """(height, width), about 0 to 1."""
    mask: NDArray[np.bool_]
    """(height, width): values above 0.5, holes filled, the largest connected part."""


def bilateral_solver(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    sigma_spatial: float = 16.0,
    sigma_luma: float = 16.0,
    sigma_chroma: float = 8.0,
) -> Refined:
    """Refine a mask along the edges of its image.

    Parameters
    ----------
    image
        (height, width, 3) uint8, RGB.
    mask
        (height, width): bool, or values in [0, 1].
    sigma_spatial, sigma_luma, sigma_chroma
        Cell sizes of the bilateral grid: pixels, and levels of luma and of the colour differences.

    Raises
    ------
    InputError
        For other shapes or dtypes.

    References
    ----------
    Barron and Poole, "The Fast Bilateral Solver", ECCV 2016.

    Examples
    --------
    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> image[:, 16:] = 255
    >>> mask = np.zeros((32, 32), bool)
    >>> mask[:, 14:] = True  # two columns too many
    >>> bilateral_solver(image, mask).mask[0, 13:18].astype(int)
    array([0, 0, 0, 1, 1])
    """
    pixels, target = np.asarray(image), np.asarray(mask, np.float64)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(
            f"the image is {pixels.dtype} of shape {pixels.shape}; give uint8 (height, width, 3)"
        )
    if target.shape != pixels.shape[:2] or not target.size:
        raise InputError(f"the mask has the shape {target.shape}, its image {pixels.shape[:2]}")
    splat = _splat(pixels, sigma_spatial, sigma_luma, sigma_chroma)
    blur = splat.blur
    n_pixels = np.asarray(splat.pixels.sum(axis=1)).ravel()
    scale = np.ones_like(n_pixels)
    for _ in range(BISTOCHASTIC_ITERATIONS):
        scale = np.sqrt(scale * n_pixels / (blur @ scale))
    mass = scale * (blur @ scale)
    diagonal = scipy.sparse.diags_array(scale)
    smooth = scipy.sparse.diags_array(mass) - diagonal @ blur @ diagonal
    weight = CONFIDENCE * n_pixels
    matrix = (SMOOTHNESS * smooth + scipy.sparse.diags_array(weight)).tocsr()
    wanted = splat.pixels @ (CONFIDENCE * target.ravel())
    preconditioner = scipy.sparse.diags_array(1 / np.maximum(matrix.diagonal(), LEAST_DIAGONAL))
    solved, _ = scipy.sparse.linalg.cg(
        matrix,
        wanted,
        x0=wanted / weight,
        M=preconditioner,
        rtol=TOLERANCE,
        maxiter=MAX_ITERATIONS,
    )
    values = (splat.pixels.T @ solved).reshape(target.shape)
    return Refined(values, _largest_part(values))


@dataclass(frozen=True)
class _Splat:
    pixels: scipy.sparse.csr_array
    """(vertex, pixel): 1 where a pixel lies in a vertex' cell."""
    blur: scipy.sparse.csr_array
    """(vertex, vertex): [1 2 1] along each of the five axes, added up."""


def _splat(image: NDArray[np.uint8], spatial: float, luma: float, chroma: float) -> _Splat:
    yuv = image @ _YUV.T + [0, 128, 128]
    rows, columns = np.indices(image.shape[:2])
    cells = np.stack(
        [
            columns / spatial,
            rows / spatial,
            yuv[..., 0] / luma,
            yuv[..., 1] / chroma,
            yuv[..., 2] / chroma,
        ],
        axis=-1,
    ).astype(np.int64)
    # A cell's number, with room for a neighbour on either side of every axis.
    sizes = cells.reshape(-1, 5).max(axis=0) + 3
    strides = np.concatenate([[1], np.cumprod(sizes)[:-1]])
    numbers = ((cells.reshape(-1, 5) + 1) @ strides).astype(np.int64)
    vertices, of_pixel = np.unique(numbers, return_inverse=True)
    n_vertices, n_pixels = len(vertices), len(numbers)
    pixels = scipy.sparse.csr_array(
        (np.ones(n_pixels), (of_pixel.ravel(), np.arange(n_pixels))), (n_vertices, n_pixels)
    )
    blur = 10.0 * scipy.sparse.eye_array(n_vertices, format="csr")
    for stride in strides:
        place = np.searchsorted(vertices, vertices + stride)
        place[place == n_vertices] = 0
        joined = np.flatnonzero(vertices[place] == vertices + stride)
        edges = scipy.sparse.csr_array(
            (np.ones(len(joined)), (joined, place[joined])), (n_vertices, n_vertices)
        )
        blur = blur + edges + edges.T
    return _Splat(pixels, blur.tocsr())


def _largest_part(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    filled = scipy.ndimage.binary_fill_holes(values > 0.5)
    parts, n_parts = scipy.ndimage.label(filled)
    if not n_parts:
        return np.zeros(values.shape, bool)
    # The published code takes the second largest part with the background among them, which is the
    # background itself where the object fills more than half of the image.
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
