"""The statistics' products on an accelerator; torch is imported by whoever hands over a tensor."""

import math

import numpy as np
import torch

from soapworks._full_precision import full_precision
from soapworks.method._tokens import iterate_blocks

#: Rows of one block of tokens on the device, in elements (a float32 copy takes 64 MiB).
DEVICE_BLOCK_ELEMENTS = 2**24

#: Rows per single float32 product: short sums keep eigenvalues to 1e-6, the rest is float64.
PRODUCT_ROWS = 512


def moments_on_device(
    tokens: torch.Tensor, dtype: torch.dtype
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return count, mean (D,) and scatter (D, D), float64, fetched once.

    ``dtype`` is that of the products (float32 or float64); centres and sums are float64.
    """
    n_channels = tokens.shape[-1]
    device = tokens.device
    scatter = torch.zeros(n_channels, n_channels, dtype=torch.float64, device=device)
    counts: list[int] = []
    means: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []
    with full_precision(device.type):
        for rows in iterate_blocks(tokens, max(PRODUCT_ROWS, DEVICE_BLOCK_ELEMENTS // n_channels)):
            centre = rows.mean(dim=0, dtype=torch.float64).to(dtype).double()
            wide = rows.dtype == torch.float64
            centred = (rows - centre).to(dtype) if wide else rows.to(dtype) - centre.to(dtype)
            residual = centred.mean(dim=0, dtype=torch.float64)
            n_whole = len(rows) // PRODUCT_ROWS * PRODUCT_ROWS
            whole = centred[:n_whole].reshape(-1, PRODUCT_ROWS, n_channels)
            scatter += torch.bmm(whole.mT, whole).sum(dim=0, dtype=torch.float64)
            scatter += centred[n_whole:].mT @ centred[n_whole:]
            counts.append(len(rows))
            means.append(centre + residual)
            residuals.append(residual * math.sqrt(len(rows)))
        weight = torch.tensor(counts, dtype=torch.float64, device=device)[:, None]
        stacked = torch.stack(means)
        mean = (stacked * (weight / sum(counts))).sum(dim=0)
        spread = (stacked - mean) * weight.sqrt()
        residual = torch.stack(residuals)
        scatter += spread.mT @ spread - residual.mT @ residual
    return sum(counts), mean.cpu().numpy(), scatter.cpu().numpy()
