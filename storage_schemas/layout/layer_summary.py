"""The facts of one layer's head: the one declaration behind rows, tables, charts and pages."""

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.layout.recipes import KEY_PATTERN

NO_SCORE: dict[str, Any] = {"n_invariant": 0, "top_si": None, "top_standard_error": None}
"""Facts of a layer without a score."""


def scores_nothing(n_invariant: Any, share: Any) -> Any:
    """Return whether a layer's components above .75 have no variance at all, and so no score.

    Version 0.1 gave components without variance a score: 1, where all features are equal.
    """
    return (n_invariant > 0) & (share == 0)


class LayerSummary(BaseModel):
    """What a run says of one layer; a field's title is its column's heading."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field("", title="checkpoint", description="identifier when last scored")
    layer: str = Field(title="layer", description="layer that was read")
    top_si: FiniteFloat | None = Field(
        title="top SI", description="highest score of a component; missing: no component has one"
    )
    top_standard_error: FiniteFloat | None = Field(
        None, title="± error", description="its standard error; NaN below two blocks of images"
    )
    top_component: int = Field(title="at component", description="the component that has it")
    n_invariant: int = Field(title="above .75", description="components above .75")
    invariant_variance_share: FiniteFloat = Field(
        title="variance above .75", description="share of the variance that is in them"
    )
    n_suppressed: int | None = Field(
        None, title="suppressed", description="components that the head suppresses"
    )
    n_components: int = Field(description="number of components")
    n_real: int = Field(description="real images")
    n_synthetic: int = Field(description="synthetic images")
    cached: bool | None = Field(
        None,
        title="cached",
        description="whether the last run found the head in the store; missing: not known",
    )
    key: str = Field(pattern=KEY_PATTERN, description="key of the head")
    head: str = Field("", title="head", description="address of the head")

    @model_validator(mode="before")
    @classmethod
    def _nothing_without_variance(cls, data: Any) -> Any:
        known = isinstance(data, dict) and isinstance(data.get("n_invariant"), int)
        if known and scores_nothing(data["n_invariant"], data.get("invariant_variance_share")):
            return data | NO_SCORE
        return data

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], **identity: Any) -> Self:
        """Return the summary of a head from the facts of its record.

        Parameters
        ----------
        facts
            Facts of the record; those that are no field of a summary are ignored.
        **identity
            The fields that the facts do not hold: ``layer``, ``key``, ``head``, ...

        Raises
        ------
        DamagedProductError
            If a fact is missing or has another type.
        """
        known = {name: value for name, value in facts.items() if name in cls.model_fields}
        try:
            return cls(**(known | identity))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise DamagedProductError(f"its fact {name} is invalid: {first['msg']}") from error

    @property
    def order(self) -> float:
        """Sort key by score: a layer without one comes last."""
        return -math.inf if self.top_si is None else self.top_si


HEADINGS = {name: field.title for name, field in LayerSummary.model_fields.items() if field.title}
"""Fields that tables show: name, heading."""

_DTYPES = {"bool": "boolean", "float": "float64", "int": "int64", "str": "str"}


def dtypes(*names: str) -> dict[str, str]:
    """Return field -> pandas dtype of its column."""
    fields = LayerSummary.model_fields
    return {
        name: next(dtype for kind, dtype in _DTYPES.items() if kind in str(fields[name].annotation))
        for name in names
    }


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number for people; a dash where it is missing."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"
