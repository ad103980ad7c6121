"""The counting of responses on an accelerator: the same steps as on the CPU, in torch."""

from typing import Any

import numpy as np
import torch

from soapworks._full_precision import full_precision
from soapworks.method._device import DEVICE_BLOCK_ELEMENTS
from soapworks.method._tokens import TOO_CLOSE, unusable_tokens
from soapworks.method.pca import Pca

_SINGLE_RESPONSES = 2**15


class DeviceResponses:
    """Count block after block on ``device``."""

    def __init__(self, pca: Pca, device: torch.device, *, exact: bool) -> None:
        self.exact = exact
        self.mean = torch.as_tensor(pca.mean, device=device)
        self.components = torch.as_tensor(pca.components, device=device)
        self.components32 = self.components.float()
        self.centre = self.mean.float()
        remainder = self.mean - self.centre.double()
        self.offset = (self.components @ remainder).float()
        self.slack = float(remainder.norm())

    @staticmethod
    def block_rows(n_channels: int) -> int:
        """Return the number of rows of a block of tokens."""
        return max(1, DEVICE_BLOCK_ELEMENTS // n_channels)

    def count(self, block: Any) -> np.ndarray:
        """Return counts (R, C, D) of a block (image, row, column, channel)."""
        rows = block.reshape(-1, block.shape[-1])
        with full_precision(rows.device.type):
            wide = rows.dtype == torch.float64
            centred = (rows - self.centre).float() if wide else rows.float() - self.centre
            norms = torch.linalg.vector_norm(centred, dim=1)
            if not bool(torch.isfinite(norms).all()):
                raise unusable_tokens()
            response = centred @ self.components32.mT - self.offset
            positive = response > 0
            if self.exact:
                near = response.abs() <= (TOO_CLOSE * (norms + self.slack))[:, None]
                self._decide(rows, near, positive)
            return positive.reshape(block.shape).sum(dim=0).cpu().numpy()

    def _decide(self, rows: torch.Tensor, near: torch.Tensor, positive: torch.Tensor) -> None:
        if int(near.sum()) > near.numel() // 64:
            dense = near.sum(dim=0) > len(rows) // 16
            exact = (rows.double() - self.mean) @ self.components[dense].mT
            positive[:, dense] = exact > 0
            near[:, dense] = False
        for row, component in zip(
            *(index.split(_SINGLE_RESPONSES) for index in near.nonzero(as_tuple=True)), strict=True
        ):
            token = rows[row].double() - self.mean
            exact = (token * self.components[component]).sum(dim=1)
            positive[row, component] = exact > 0
