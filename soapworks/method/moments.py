"""Count, mean and scatter of tokens, gathered in parts and merged without cancellation."""

import sys
from typing import Any, Literal, Self

import numpy as np

from soapworks.errors import InputError, PrecisionError
from soapworks.method._tokens import (
    block_rows,
    centre_into,
    check_tokens,
    is_tensor,
    iterate_blocks,
    to_array,
    to_float64,
)

Precision = Literal["float32", "float64"]

#: The provisional centre of a block is the mean of every sixteenth row. It is at most 4 standard
#: deviations off whatever the rows are, which costs a factor 16 of rounding at worst.
_CENTRE_STRIDE = 16

#: Rows that float32 sums run over before float64 takes over.
_SUM_ROWS = 64

#: Blocks whose means are kept before they are folded in.
_MAX_PENDING_BLOCKS = 256


class Moments:
    """Running count, mean and scatter of tokens.

    Each block of rows is centred before it is multiplied with itself, and blocks are joined in
    float64 by the pairwise formula of Chan, Golub and LeVeque (1979), so massive channels
    (mean/std of 100 and more) lose nothing, and parts may come in any size and order. Extra memory
    is bounded by some 16 MiB blocks whatever the size of one update.

    Parameters
    ----------
    n_channels : int
        D, the number of channels of every token.
    precision : {"float64", "float32"}
        Of the matrix products; all else is float64 in both. "float32" is about twice as fast. Its
        eigenvalues are off by some 1e-8 of the largest one, so those above a few thousandths of it
        are right to 1e-6.

    Raises
    ------
    InputError
        For a number of channels below 1 or an unknown precision.

    Notes
    -----
    Section 3 of docs/method.md.

    Examples
    --------
    >>> import numpy as np
    >>> first, second = np.array([[0.0, 1.0]]), np.array([[0.0, 3.0]])
    >>> moments = Moments(2).update(first).merge(Moments(2).update(second))
    >>> moments.count, moments.mean.tolist(), moments.covariance.tolist()
    (2, [0.0, 2.0], [[0.0, 0.0], [0.0, 2.0]])
    """

    def __init__(self, n_channels: int, *, precision: Precision = "float64") -> None:
        if n_channels < 1:
            raise InputError(f"moments need at least 1 channel, not {n_channels}")
        if precision not in ("float32", "float64"):
            raise InputError(f"precision must be 'float32' or 'float64', not {precision!r}")
        self.n_channels = int(n_channels)
        self.precision: Precision = precision
        self._count = 0
        self._mean = np.zeros(self.n_channels)
        self._scatter = np.zeros((self.n_channels, self.n_channels))

    @classmethod
    def from_parts(
        cls, count: int, mean: Any, scatter: Any, *, precision: Precision = "float64"
    ) -> Self:
        """Return moments from parts that were stored earlier.

        Parameters
        ----------
        count : int
        mean : (D,)
        scatter : (D, D)
        precision
            Of the products behind the scatter, and of later ones.

        Raises
        ------
        InputError
            When the shapes do not belong together.
        PrecisionError
            For NaN or infinity.
        """
        mean, scatter = to_array(mean), to_array(scatter)
        if mean.ndim != 1 or scatter.shape != (mean.size, mean.size) or count < 0:
            raise InputError(
                "moments need a count >= 0, a mean (D,) and a scatter (D, D), not "
                f"{count}, {mean.shape} and {scatter.shape}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
            raise PrecisionError("the mean or scatter given holds NaN or infinity; make it again")
        moments = cls(mean.size, precision=precision)
        moments._count = int(count)
        moments._mean = mean.astype(np.float64)
        moments._scatter = scatter.astype(np.float64)
        return moments

    @property
    def count(self) -> int:
        """Number of tokens seen."""
        return self._count

    @property
    def mean(self) -> np.ndarray:
        """Mean token, (D,) float64; zeros before the first token."""
        return self._mean.copy()

    @property
    def scatter(self) -> np.ndarray:
        """Sum of outer products of centred tokens, (D, D) float64."""
        return self._scatter.copy()

    @property
    def covariance(self) -> np.ndarray:
        """Scatter over ``count - 1``, (D, D) float64.

        Raises
        ------
        InputError
            With fewer than two tokens.
        """
        if self._count < 2:
            raise InputError(f"a covariance needs at least 2 tokens, and {self._count} were seen")
        return self._scatter / (self._count - 1)

    def update(self, tokens: Any) -> Self:
        """Take in tokens and return the moments.

        Parameters
        ----------
        tokens : array or tensor, (image, row, column, channel) or (n, channel)
            Any float dtype and device. Tensors on a CUDA device are multiplied there.

        Raises
        ------
        InputError
            For another number of channels.
        PrecisionError
            For NaN, infinity or overflow, naming the channel. Whole blocks before the offending
            one have been counted by then, so start again from new moments.
        """
        tokens = check_tokens(tokens, self.n_channels)
        if 0 in tokens.shape:
            return self
        if is_tensor(tokens) and tokens.device.type == "cuda":
            return self._update_on_device(tokens)
        pending: list[_Block] = []
        n_rows = min(block_rows(self.n_channels), int(np.prod(tokens.shape[:-1])))
        out = np.empty((n_rows, self.n_channels), self.precision)
        product = np.empty((self.n_channels, self.n_channels), self.precision)
        try:
            for rows in iterate_blocks(tokens, n_rows):
                pending.append(_multiply_block(rows, out, product))
                self._scatter += product
                if len(pending) == _MAX_PENDING_BLOCKS:
                    self._fold_in(pending)
                    pending = []
        finally:
            self._fold_in(pending)
        return self

    def merge(self, other: "Moments") -> Self:
        """Take in the tokens of ``other`` and return the moments.

        Raises
        ------
        InputError
            When ``other`` has another number of channels.
        """
        if other.n_channels != self.n_channels:
            raise InputError(
                f"moments of {other.n_channels} channels cannot be merged into moments of "
                f"{self.n_channels} channels"
            )
        if other.count:
            block = (other.count, other.mean, np.zeros(self.n_channels))
            self._scatter += other._scatter
            self._fold_in([block])
        return self

    def _update_on_device(self, tokens: Any) -> Self:
        from soapworks.method._device import moments_on_device

        dtype = getattr(sys.modules["torch"], self.precision)
        count, mean, scatter = moments_on_device(tokens, dtype)
        if not (np.isfinite(mean).all() and np.isfinite(np.diag(scatter)).all()):
            raise _precision_error(~np.isfinite(mean) | ~np.isfinite(np.diag(scatter)))
        return self.merge(Moments.from_parts(count, mean, scatter))

    def _fold_in(self, blocks: "list[_Block]") -> None:
        """Join blocks by Chan's formula; the scatter has their products."""
        if not blocks:
            return
        counts = np.array([self._count, *(block[0] for block in blocks)], np.float64)
        means = np.stack([self._mean, *(block[1] for block in blocks)])
        # Relative to a mean that was seen, so that large means cost no digits.
        reference = means[-1]
        mean = reference + (counts / counts.sum()) @ (means - reference)
        between = np.sqrt(counts)[:, None] * (means - mean)
        residuals = np.sqrt(counts[1:])[:, None] * np.stack([block[2] for block in blocks])
        self._scatter += between.T @ between - residuals.T @ residuals
        self._mean = mean
        self._count += sum(block[0] for block in blocks)


#: Number of rows, their mean (D,), and that mean minus the centre they were multiplied about (D,).
_Block = tuple[int, np.ndarray, np.ndarray]


def _multiply_block(rows: Any, out: np.ndarray, product: np.ndarray) -> _Block:
    """Multiply centred rows (n, D) with themselves into ``product``."""
    n_rows = rows.shape[0]
    with np.errstate(over="ignore", invalid="ignore"):
        centre = to_float64(rows[::_CENTRE_STRIDE]).mean(axis=0)
        centre = centre.astype(out.dtype).astype(np.float64)
        centred = centre_into(rows, centre, out)
        residual = _column_sums(centred) / n_rows
        # NumPy sends this very form, X.T @ X, to the symmetric kernel: half the operations.
        np.matmul(centred.T, centred, out=product)
    bad = ~np.isfinite(residual) | ~np.isfinite(np.diag(product))
    if bad.any():
        in_rows = ~np.isfinite(to_float64(rows)).all(axis=0)
        raise _precision_error(in_rows if in_rows.any() else bad, overflow=not in_rows.any())
    return n_rows, centre + residual, residual


def _column_sums(rows: np.ndarray) -> np.ndarray:
    n_whole = len(rows) // _SUM_ROWS * _SUM_ROWS
    tiles = rows[:n_whole].reshape(-1, _SUM_ROWS, rows.shape[1]).sum(axis=1)
    return tiles.sum(axis=0, dtype=np.float64) + rows[n_whole:].sum(axis=0, dtype=np.float64)


def _precision_error(bad: np.ndarray, *, overflow: bool = False) -> PrecisionError:
    channels = np.flatnonzero(bad)
    others = f" (and {len(channels) - 1} more)" if len(channels) > 1 else ""
    fault = "values too large to be squared" if overflow else "NaN or infinity"
    return PrecisionError(
        f"tokens hold {fault} in channel {channels[0]}{others}; extract these features in "
        "float32, or leave out the images they come from"
    )
