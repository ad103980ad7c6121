"""The heads that are held against each other at one layer, fitted on the same images."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.evidence.store import Fitted
from soapworks import SoapHead
from soapworks.evaluation import rivals

RAW = "raw"
N_RANDOM = 3

Heads = dict[str, SoapHead | None]


def heads_of(fitted: Fitted, black: np.ndarray) -> Heads:
    """Return name -> head; None stands for the features as they are.

    Parameters
    ----------
    fitted
        What the store has of the layer.
    black
        (row, column, channel): features of a black image.
    """
    n = max(1, fitted.n_invariant)  # as many directions as SOAP removes with mu = threshold
    heads: Heads = {
        RAW: None,
        "SOAP, mu = 2": fitted.soap_2,
        "SOAP, mu = threshold": fitted.soap_threshold,
    }
    for k in (2, 8, 32):
        heads[f"position basis, k = {k}"] = rivals.position_basis(fitted.position_means, k)
    heads |= {
        "position basis, k = 8, centred": rivals.position_basis(
            fitted.position_means, 8, centred=True
        ),
        "position basis, k = 32, centred": rivals.position_basis(
            fitted.position_means, 32, centred=True
        ),
        "LEACE, k = 8, centred": rivals.leace(
            fitted.position_means, fitted.covariance, 8, centred=True
        ),
        "RASA, 4 rounds": rivals.rasa(fitted.position_means, fitted.covariance, 4),
        "INSID3, k = 8": rivals.insid3(black, 8),
        "strongest 2": rivals.strongest_components(fitted.pca, 2),
        "strongest, as many as threshold": rivals.strongest_components(fitted.pca, n),
        "random, as many as threshold": rivals.random_components(fitted.pca, n, seed=0),
    }
    return heads


def projected(heads: Heads, tokens: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, tokens after the head), in float32.

    Parameters
    ----------
    heads
        From :func:`heads_of`.
    tokens
        (..., channel).
    """
    given = torch.from_numpy(np.ascontiguousarray(tokens, np.float32))
    for name, head in heads.items():
        with torch.inference_mode():
            yield name, (given if head is None else head(given)).numpy()
