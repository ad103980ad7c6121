"""Principal components of all real patch tokens, exact, from their moments."""

from dataclasses import dataclass

import numpy as np

from soapworks.errors import InputError
from soapworks.method.moments import Moments


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components of tokens, in float64 (METHOD section 3).

    A component's sign is arbitrary; it is stored once and used for both domains.

    Raises
    ------
    InputError
        When the three shapes do not belong together.
    """

    #: Mean token, (D,).
    mean: np.ndarray
    #: Orthonormal components, (D, D), one per row by descending eigenvalue.
    components: np.ndarray
    #: Eigenvalues of the covariance (divisor count - 1), (D,), descending, never negative.
    explained_variance: np.ndarray
    #: Number of tokens.
    count: int

    def __post_init__(self) -> None:
        """Take arrays as float64 and check that their shapes belong together."""
        for name in ("mean", "components", "explained_variance"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        size = self.mean.size
        shapes = (self.mean.shape, self.components.shape, self.explained_variance.shape)
        if shapes != ((size,), (size, size), (size,)):
            raise InputError(
                "a PCA needs a mean (D,), components (D, D) and explained variance (D,), not "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )

    @property
    def n_channels(self) -> int:
        """D, the number of channels and of components."""
        return self.mean.size


def fit_pca(moments: Moments) -> Pca:
    """Return the principal components of the tokens that ``moments`` has seen.

    One symmetric eigendecomposition in float64. Signs are fixed so that the entry of largest
    magnitude in each component is positive (the first one among equals). Eigenvalues that rounding
    made negative are set to 0.

    Raises
    ------
    InputError
        With fewer than two tokens.

    Examples
    --------
    >>> import numpy as np
    >>> pca = fit_pca(Moments(2).update(np.array([[0.0, 1.0], [0.0, 3.0]])))
    >>> pca.explained_variance.tolist(), pca.components[0].tolist()
    ([2.0, 0.0], [0.0, 1.0])
    """
    if moments.count < 2:
        raise InputError(f"a PCA needs at least 2 tokens, and {moments.count} were seen")
    eigenvalues, eigenvectors = np.linalg.eigh(moments.covariance)
    components = np.ascontiguousarray(eigenvectors[:, ::-1].T)
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    components *= signs[:, None]
    # Adding zero turns the -0.0 that signs leave behind into 0.0.
    components += 0.0
    return Pca(
        mean=moments.mean,
        components=components,
        explained_variance=np.maximum(eigenvalues[::-1], 0.0),
        count=moments.count,
    )
