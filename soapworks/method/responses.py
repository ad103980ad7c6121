"""How often each component responds at each position: exact, mergeable counts."""

from collections.abc import Callable
from typing import Any

import numpy as np

from soapworks.errors import InputError
from soapworks.method._tokens import (
    TOO_CLOSE,
    block_rows,
    centre_into,
    check_tokens,
    is_tensor,
    to_float64,
    unusable_tokens,
)
from soapworks.method.moments import Precision
from soapworks.method.pca import Pca

#: Responses that are worked out one by one at a time.
_SINGLE_RESPONSES = 2048


def count_responses(tokens: Any, pca: Pca, *, precision: Precision = "float64") -> np.ndarray:
    """Count images with a positive response, by position and component.

    The response of component d to token z is ``(z - mean) . v_d``, and positive means > 0. Counts
    of several parts of an image set add up.

    Parameters
    ----------
    tokens : array or tensor, (image, row, column, channel)
        Any float dtype and device. Tensors on a CUDA device are worked on there.
    pca : Pca
        Of the real images, in both domains.
    precision : {"float64", "float32"}
        "float64" gives the counts of float64 arithmetic: products are float32, and responses that
        these leave too close to zero are worked out again in float64, which costs little.
        "float32" leaves them as they are: some 1 in 100,000 then differs.

    Returns
    -------
    counts : (R, C, D) int64

    Raises
    ------
    InputError
        When tokens have not four axes or not the channels of ``pca``, or for another precision.
    PrecisionError
        For NaN, infinity or values too large to be squared in float32.

    Notes
    -----
    Section 4 of docs/method.md.

    Examples
    --------
    >>> import numpy as np
    >>> pca = Pca(mean=[0, 2], components=[[0, 1], [1, 0]], explained_variance=[2, 0], count=2)
    >>> count_responses(np.array([[[[5, 3]]], [[[5, 1]]]]), pca)
    array([[[1, 2]]])
    """
    tokens = check_tokens(tokens, pca.n_channels, grid=True)
    if precision not in ("float32", "float64"):
        raise InputError(f"precision must be 'float32' or 'float64', not {precision!r}")
    n_images, n_grid_rows, n_grid_columns, n_channels = tokens.shape
    counts = np.zeros((n_grid_rows, n_grid_columns, n_channels), np.int64)
    if 0 in tokens.shape:
        return counts
    decide: Callable[[Any], np.ndarray]
    if is_tensor(tokens) and tokens.device.type == "cuda":
        from soapworks.method._device_responses import DeviceResponses

        n_rows = DeviceResponses.block_rows(n_channels)
        decide = DeviceResponses(pca, tokens.device, exact=precision == "float64").count
    else:
        n_rows = block_rows(n_channels)
        decide = _Responses(pca, exact=precision == "float64").count
    # A block is some whole images or, on a grid larger than a block, some rows of one image. Up to
    # 255 images are counted in 8 bits.
    n_together = min(max(n_rows // (n_grid_rows * n_grid_columns), 1), 255)
    n_high = min(max(n_rows // n_grid_columns, 1), n_grid_rows)
    for first in range(0, n_images, n_together):
        for top in range(0, n_grid_rows, n_high):
            block = tokens[first : first + n_together, top : top + n_high]
            counts[top : top + n_high] += decide(block)
    return counts


class _Responses:
    """Count block after block on the CPU, in buffers made once."""

    def __init__(self, pca: Pca, *, exact: bool) -> None:
        self.pca = pca
        self.exact = exact
        self.components = pca.components.astype(np.float32)
        # What rounding the mean to float32 leaves over is made good after the product.
        self.centre = pca.mean.astype(np.float32).astype(np.float64)
        self.remainder = pca.mean - self.centre
        self.offset = (pca.components @ self.remainder).astype(np.float32)
        self.centred = np.empty((0, pca.n_channels), np.float32)
        self.response = np.empty((0, pca.n_channels), np.float32)

    def count(self, block: Any) -> np.ndarray:
        """Return counts (R, C, D) of a block (image, row, column, channel)."""
        rows = block.reshape(-1, block.shape[-1])
        if len(rows) > len(self.centred):
            self.centred = np.empty(rows.shape, np.float32)
            self.response = np.empty(rows.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            centred = centre_into(rows, self.centre, self.centred)
            norms = np.sqrt(np.einsum("nd,nd->n", centred, centred))
        if not np.isfinite(norms).all():
            raise unusable_tokens()
        response = np.matmul(centred, self.components.T, out=self.response[: len(rows)])
        response -= self.offset
        positive = response > 0
        if self.exact:
            limit = TOO_CLOSE * (norms + np.float32(np.linalg.norm(self.remainder)))
            near = np.abs(response, out=response) <= limit[:, None].astype(np.float32)
            self._decide(rows, near, positive)
        per_image = positive.view(np.uint8).reshape(*block.shape)
        return np.add.reduce(per_image, axis=0, dtype=np.uint8)

    def _decide(self, rows: Any, near: np.ndarray, positive: np.ndarray) -> None:
        """Set ``positive`` from float64 responses where ``near`` is true."""
        n_near = np.count_nonzero(near)
        if n_near > near.size // 64:
            # Components without variance are near everywhere: one product is faster then.
            dense = np.count_nonzero(near, axis=0) > len(rows) // 16
            exact = (to_float64(rows) - self.pca.mean) @ self.pca.components[dense].T
            positive[:, dense] = exact > 0
            near[:, dense] = False
        # Row by row, then by component, whatever the memory order of both is.
        flat = np.flatnonzero(near)
        for start in range(0, len(flat), _SINGLE_RESPONSES):
            row, component = np.divmod(flat[start : start + _SINGLE_RESPONSES], near.shape[1])
            token = to_float64(rows[row]) - self.pca.mean
            exact = np.einsum("nd,nd->n", token, self.pca.components[component])
            positive[row, component] = exact > 0
