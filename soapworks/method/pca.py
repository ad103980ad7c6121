"""Principal components of all real patch tokens, exact, from their moments."""

from dataclasses import dataclass

import numpy as np

from soapworks.errors import CollapsedFeaturesError, InputError
from soapworks.method.moments import Moments

#: Eigenvalues up to this share of the largest one are rounding, by the precision of the products
#: behind the covariance: D times float64's unit, or the error of sums of float32 products.
_FLOAT64_SHARE = float(np.finfo(np.float64).eps)
_FLOAT32_SHARE = 1e-8

_FLOAT32_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components of tokens, in float64.

    A component's sign is arbitrary; it is stored once and used for both domains.

    Raises
    ------
    InputError
        When the three shapes do not belong together, a number is not finite, a variance is
        negative or a component has no unit length: counts would be zeros then, and zeros score 1.

    Notes
    -----
    Section 3 of docs/method.md.

    Examples
    --------
    >>> Pca(mean=[0, 2], components=[[0, 1], [1, 0]], explained_variance=[2, 0], count=2).n_channels
    2
    """

    #: Mean token, (D,).
    mean: np.ndarray
    #: Orthonormal components, (D, D), one per row by descending eigenvalue.
    components: np.ndarray
    #: Eigenvalues of the covariance (divisor count - 1), (D,), descending; 0: no variance.
    explained_variance: np.ndarray
    #: Number of tokens.
    count: int

    def __post_init__(self) -> None:
        """Take arrays as float64 and check them."""
        for name in ("mean", "components", "explained_variance"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        size = self.mean.size
        shapes = (self.mean.shape, self.components.shape, self.explained_variance.shape)
        if shapes != ((size,), (size, size), (size,)):
            raise InputError(
                "a PCA needs a mean (D,), components (D, D) and explained variance (D,), not "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )
        lengths = np.linalg.norm(self.components, axis=1)
        if not (np.abs(lengths - 1) < 1e-6).all() or not np.isfinite(self.mean).all():
            raise InputError(
                "a PCA needs a finite mean and components of unit length; fit or store it again"
            )
        if not ((self.explained_variance >= 0) & np.isfinite(self.explained_variance)).all():
            raise InputError("explained variances must be finite and at least 0; fit the PCA again")

    @property
    def n_channels(self) -> int:
        """D, the number of channels and of components."""
        return self.mean.size


def fit_pca(moments: Moments, *, rounding: float = _FLOAT32_ROUNDING) -> Pca:
    """Return the principal components of the tokens seen.

    One symmetric eigendecomposition in float64. Signs are fixed so that the entry of largest
    magnitude in each component is positive (the first one among equals).

    An eigenvalue that rounding cannot tell from 0 is set to 0, and its component then has no score:
    below D * 2.2e-16 of the largest one, with products in float32 below 1e-8 of it, or not above
    twice the size of the most negative one, since a covariance has none.

    Parameters
    ----------
    moments : Moments
        Of all real patch tokens.
    rounding : float
        Relative rounding of the tokens, that of float32 by default. Tokens whose deviation is
        below it in every channel, relative to the channel's mean, do not vary.

    Returns
    -------
    pca : Pca

    Raises
    ------
    InputError
        With fewer than two tokens.
    CollapsedFeaturesError
        When the tokens do not vary.

    Notes
    -----
    Section 3 of docs/method.md.

    Examples
    --------
    >>> import numpy as np
    >>> pca = fit_pca(Moments(2).update(np.array([[0.0, 1.0], [0.0, 3.0]])))
    >>> pca.explained_variance.round(6).tolist(), pca.components[0].tolist()
    ([2.0, 0.0], [0.0, 1.0])
    """
    if moments.count < 2:
        raise InputError(f"a PCA needs at least 2 tokens, and {moments.count} were seen")
    covariance = moments.covariance
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    if (deviation <= rounding * np.abs(moments.mean)).all():
        raise CollapsedFeaturesError(
            f"the features do not vary: all {moments.n_channels} channels are constant over "
            f"{moments.count} tokens, to a relative rounding of {rounding:.1g}; check the "
            "checkpoint's weights, or leave this layer out"
        )
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    varies = np.where(eigenvalues > _least(eigenvalues, moments), eigenvalues, 0.0)
    components = np.ascontiguousarray(eigenvectors[:, ::-1].T)
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    components *= signs[:, None]
    # Adding zero turns the -0.0 that signs leave behind into 0.0.
    components += 0.0
    return Pca(
        mean=moments.mean,
        components=components,
        explained_variance=varies[::-1],
        count=moments.count,
    )


def _least(eigenvalues: np.ndarray, moments: Moments) -> float:
    """Return the largest variance that is rounding; eigenvalues ascend."""
    share = _FLOAT32_SHARE if moments.precision == "float32" else 0.0
    share = max(share, moments.n_channels * _FLOAT64_SHARE)
    return float(max(share * eigenvalues[-1], -2 * eigenvalues[0]))
