"""The method as a library: find and suppress non-semantic components of vision transformers.

Everything public is importable from here and loaded on first use, so ``import soapworks`` costs
nothing and a machine that only applies heads needs torch and safetensors alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Moments": "moments",
    "Pca": "pca",
    "SPECS": "synthesis",
    "SoapHead": "head",
    "SoapworksError": "errors",
    "attach": "attachment",
    "count_responses": "responses",
    "detach": "attachment",
    "fit_pca": "pca",
    "fold": "head",
    "invariant_variance_share": "scores",
    "rank_components": "scores",
    "score_components": "scores",
    "score_errors": "scores",
    "select_components": "weights",
    "semantic_invariance": "scores",
    "suppression_weights": "weights",
    "synthesize": "synthesis",
}

__all__ = [
    "SPECS",
    "Moments",
    "Pca",
    "SoapHead",
    "SoapworksError",
    "__version__",
    "attach",
    "count_responses",
    "detach",
    "fit_pca",
    "fold",
    "invariant_variance_share",
    "rank_components",
    "score_components",
    "score_errors",
    "select_components",
    "semantic_invariance",
    "suppression_weights",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'soapworks' has no attribute {name!r}")
    value = getattr(import_module(f"soapworks.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


if TYPE_CHECKING:
    from soapworks.attachment import attach, detach
    from soapworks.errors import SoapworksError
    from soapworks.head import SoapHead, fold
    from soapworks.moments import Moments
    from soapworks.pca import Pca, fit_pca
    from soapworks.responses import count_responses
    from soapworks.scores import (
        invariant_variance_share,
        rank_components,
        score_components,
        score_errors,
        semantic_invariance,
    )
    from soapworks.synthesis import SPECS, synthesize
    from soapworks.weights import select_components, suppression_weights
