"""The method as a library: find and suppress non-semantic components of vision transformers.

Everything public is importable from here and loaded on first use, so ``import soapworks`` costs
nothing and a machine that only applies heads needs torch and safetensors alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Moments": "method.moments",
    "Pca": "method.pca",
    "SPECS": "synthesis.images",
    "SoapHead": "heads.head",
    "SoapworksError": "errors",
    "attach": "heads.attachment",
    "count_responses": "method.responses",
    "detach": "heads.attachment",
    "fit_pca": "method.pca",
    "fold": "heads.head",
    "is_attached": "heads.attachment",
    "invariant_variance_share": "method.scores",
    "rank_components": "method.scores",
    "score_components": "method.scores",
    "score_errors": "method.jackknife",
    "select_components": "method.weights",
    "semantic_invariance": "method.scores",
    "suppression_weights": "method.weights",
    "synthesize": "synthesis.images",
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
    "is_attached",
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
    from soapworks.errors import SoapworksError
    from soapworks.heads.attachment import attach, detach, is_attached
    from soapworks.heads.head import SoapHead, fold
    from soapworks.method.jackknife import score_errors
    from soapworks.method.moments import Moments
    from soapworks.method.pca import Pca, fit_pca
    from soapworks.method.responses import count_responses
    from soapworks.method.scores import (
        invariant_variance_share,
        rank_components,
        score_components,
        semantic_invariance,
    )
    from soapworks.method.weights import select_components, suppression_weights
    from soapworks.synthesis.images import SPECS, synthesize
