"""Check a block's features against the bound of float16, before they are rounded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from soapworks.method.rounding import BOUND, TOKENS_PER_CHANNEL, component_shares
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.tasks.plan.precision import channel_fault, describe_fault


@dataclass(frozen=True)
class TokenMoments:
    """Moments of some tokens, float32 or float64, on the host or on their way there."""

    n_tokens: int
    mean: torch.Tensor
    """(channel,)"""
    second: torch.Tensor
    """Variances (channel,), or the covariance (channel, channel)."""


def checks_components(recipe: FeaturesRecipe, block: int) -> bool:
    """Return whether a block's components are checked as well: once per real segment."""
    return block == 0 and recipe.input.domain == "real"


def token_moments(values: torch.Tensor, *, covariance: bool) -> TokenMoments:
    """Return the moments of features (image, row, column, channel), on their device."""
    tokens = values.reshape(-1, values.shape[-1])
    mean = tokens.mean(0)
    centred = tokens - mean
    if covariance:
        # Products in float32 would hide components that float32 features resolve.
        centred = (centred if values.device.type != "mps" else centred.cpu()).double()
        return TokenMoments(len(tokens), mean, centred.T @ centred / len(tokens))
    return TokenMoments(len(tokens), mean, centred.square_().mean(0))


def rounding_fault(recipe: FeaturesRecipe, parts: Sequence[TokenMoments]) -> str | None:
    """Return why float16 does not hold a block, or None where it does.

    Parameters
    ----------
    recipe
        Recipe of the layer's features.
    parts
        Moments of the block's batches.
    """
    counts = np.array([part.n_tokens for part in parts], np.float64)
    if counts.sum() < 2:
        return None
    means = np.stack([part.mean.double().numpy() for part in parts])
    seconds = np.stack([part.second.double().numpy() for part in parts])
    weights = counts / counts.sum()
    mean = weights @ means
    apart = means - mean
    second = np.tensordot(weights, seconds, 1)
    if second.ndim == 1:
        return channel_fault(recipe, mean, second + weights @ apart**2)
    covariance = second + (apart.T * weights) @ apart
    fault = channel_fault(recipe, mean, np.diag(covariance).copy())
    if fault is None and counts.sum() >= TOKENS_PER_CHANNEL * len(mean):
        shares = component_shares(mean, covariance)
        worst = int(np.argmax(shares))
        if shares[worst] > BOUND:
            fault = describe_fault(recipe, "component", len(mean) - 1 - worst, shares[worst])
    return fault
