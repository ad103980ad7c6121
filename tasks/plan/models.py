"""The models of a run: a list of checkpoints, each with settings of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError, field_validator

from soapworks.errors import (
    DamagedProductError,
    EngineError,
    InputError,
    MissingProductError,
    SoapworksError,
    StoreError,
    UnreachableError,
)
from soapworks.names import one_line
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.plan.bounded_yaml import load_yaml
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings, Settings

MAX_LIST_BYTES = 1 << 20
"""Length above which a list of models is not read, bytes."""

OVERRIDES = (
    "part",
    "layers",
    "preprocessing",
    "image_size",
    "mean",
    "std",
    "precision",
    "store_dtype",
)
"""Fields of :class:`ScoreSettings` that a model may override."""


class ModelEntry(Settings):
    """A checkpoint of a run, and where it differs from the run's settings."""

    checkpoint: str = Field(min_length=1)
    """Identifier of the checkpoint."""
    architecture: str | None = None
    """timm's name of the architecture, where the checkpoint does not name it."""
    part: str | None = None
    layers: str | None = None
    preprocessing: str | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    precision: str | None = None
    store_dtype: str | None = None

    @field_validator("layers", mode="before")
    @classmethod
    def _join(cls, value: Any) -> Any:
        return ",".join(value) if isinstance(value, list) else value

    @property
    def label(self) -> str:
        """The checkpoint as it is shown."""
        return one_line(self.checkpoint)

    def request(self, images: str, common: ScoreSettings, options: RunOptions) -> ScoreRequest:
        """Return the request for this model's scores.

        Raises
        ------
        InputError
            If a setting of its own is invalid.
        """
        own = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        try:
            # A copy with changes would not be checked.
            settings = ScoreSettings(**{**common.model_dump(), **own})
        except ValidationError as error:
            raise InputError(f"{self.checkpoint}: {first_fault(error)}.") from error
        return ScoreRequest(
            checkpoint=self.checkpoint,
            architecture=self.architecture,
            images=images,
            settings=settings,
            options=options,
        )


class SomeFailedError(SoapworksError):
    """Some models of a run failed; the others are done.

    Attributes
    ----------
    failures
        Checkpoint -> what went wrong, one sentence.
    layers
        Summaries of the models that are done.
    """

    def __init__(self, failures: Mapping[str, str], layers: Sequence[LayerSummary]) -> None:
        self.failures, self.layers = dict(failures), list(layers)
        n_done = len({layer.checkpoint for layer in layers})
        reasons = "; ".join(f"{checkpoint}: {why}" for checkpoint, why in self.failures.items())
        super().__init__(
            f"{len(self.failures)} of {len(self.failures) + n_done} checkpoints failed ({reasons})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of: an error is rebuilt from its message otherwise."""
        return type(self), (self.failures, self.layers)


def models_of(
    checkpoints: Iterable[str | ModelEntry], architecture: str | None
) -> tuple[ModelEntry, ...]:
    """Return all models of a run, each once.

    Parameters
    ----------
    checkpoints
        Identifiers, or entries of a list.
    architecture
        For those that name none themselves.

    Raises
    ------
    InputError
        Where there is none.
    """
    entries = [ModelEntry(checkpoint=c) if isinstance(c, str) else c for c in checkpoints]
    if not entries:
        raise InputError("there is no checkpoint to score: name one, or give a --list of them.")
    whole = [
        e if e.architecture else e.model_copy(update={"architecture": architecture})
        for e in entries
    ]
    return tuple(dict.fromkeys(whole))


def read_model_list(address: str) -> list[ModelEntry]:
    """Return the models that a YAML file lists.

    Parameters
    ----------
    address
        Path or URL. The file is a list; an entry is an identifier, or a mapping with ``checkpoint``
        and, where it needs them, ``architecture`` and settings of its own (``OVERRIDES``). Paths
        are meant as on the command line.

    Raises
    ------
    InputError
        A file that is missing, is no such list, or has an entry with unknown or wrong fields.
    """
    try:
        data = Location.parse(address).read_bytes(limit=MAX_LIST_BYTES)
    except UnreachableError:
        raise
    except StoreError as error:
        raise InputError(f"the list of models cannot be read: {error}") from error
    if len(data) > MAX_LIST_BYTES:
        raise InputError(
            f"the list of models {address} is longer than {MAX_LIST_BYTES >> 20} MiB: is it the "
            "right file?"
        )
    try:
        document = load_yaml(data)
    except ValueError as error:
        raise InputError(f"the list of models {address} is invalid YAML: {error}") from error
    if not isinstance(document, list) or not document:
        raise InputError(
            f"the list of models {address} holds no list: write a line `- CHECKPOINT` per model."
        )
    return [_entry(item, f"{address}, entry {number}") for number, item in enumerate(document, 1)]


def is_of_one_model(error: BaseException) -> bool:
    """Return whether an error is the matter of one model, so that others can be gone on with.

    A store or an engine that fails does so for all of them.
    """
    if isinstance(error, DamagedProductError | MissingProductError):
        return True
    return isinstance(error, Exception) and not isinstance(error, StoreError | EngineError)


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong with settings, in words."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = ", ".join(ModelEntry.model_fields)
        return f"there is no field {place!r}; an entry has {known}"
    return f"{place}: {message}" if place else message


def _entry(item: Any, where: str) -> ModelEntry:
    if isinstance(item, str):
        item = {"checkpoint": item}
    if not isinstance(item, dict):
        raise InputError(f"{where}: neither the name of a checkpoint nor a mapping.")
    try:
        return ModelEntry(**{str(name): value for name, value in item.items()})
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error)}.") from error
