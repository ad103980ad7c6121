"""Command-line options: from the settings' fields, or defined here once for all commands."""

import sys
from collections.abc import Callable
from functools import partial, reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import click
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from soapworks.tasks.settings import RunOptions, ScoreSettings, Settings

if TYPE_CHECKING:
    from soapworks.tasks.plan.models import ModelEntry

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)


class FieldType(click.ParamType):
    """The type of a settings' field, read by pydantic; lists are separated by commas."""

    def __init__(self, field: FieldInfo) -> None:
        kinds = {"tuple": "numbers", "float": "float", "ByteSize": "size", "int": "integer"}
        kind = str(field.annotation)
        self.name = next((name for word, name in kinds.items() if word in kind), "text")
        self._about = field.description
        checked: Any = Annotated[field.annotation, field]
        self._adapter: TypeAdapter[Any] = TypeAdapter(checked)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as the settings hold it."""
        if self.name == "numbers" and isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            reasons = " or ".join(dict.fromkeys(fault["msg"] for fault in error.errors()))
            self.fail(f"{value!r}: {reasons} ({self._about})")


def field_option(model: type[Settings], name: str) -> Callable[[F], F]:
    """Return the option of one field of the settings."""
    field = model.model_fields[name]
    flag = f"--{name.replace('_', '-')}"
    kind: Any = FieldType(field)
    if field.annotation is bool:
        flag, kind = f"{flag}/--no-{flag[2:]}", bool
    elif get_origin(field.annotation) is Literal:
        kind = click.Choice(get_args(field.annotation))
    default = field.get_default(call_default_factory=True)
    shown = default not in (None, ())
    return click.option(
        flag,
        name,
        type=kind,
        default=default if shown else None,
        show_default=shown,
        help=field.description,
    )


def with_options(model: type[Settings]) -> Callable[[F], F]:
    """Return a decorator that gives a command one option per field of the model."""
    return _all(*(field_option(model, name) for name in model.model_fields))


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    return lambda command: reduce(lambda given, add: add(given), reversed(decorators), command)


store_option = field_option(RunOptions, "store")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Show results and errors only.")
verbose_option = click.option(
    "--verbose", is_flag=True, help="Show the workflow engine's log as well."
)
workers_option = field_option(RunOptions, "workers")
comparison_option = click.option(
    "--comparison",
    default="",
    metavar="DIGITS",
    help="First digits of a comparison (scores of the same images, real and synthetic), as "
    "soapworks leaderboard shows them.",
)
images_option = click.option("--images", required=True, help="Folder of images, a path or URL.")
architecture_option = click.option(
    "--architecture", help="timm's name of the architecture, for weights files."
)
with_request: Callable[[F], F] = _all(
    click.argument("checkpoints", nargs=-1, metavar="[CHECKPOINT]..."),
    click.option(
        "--list",
        "model_list",
        metavar="YAML",
        help="File or URL that lists checkpoints, each with settings of its own.",
    ),
    images_option,
    architecture_option,
    with_options(ScoreSettings),
    with_options(RunOptions),
    json_option,
    quiet_option,
)
"""Gives a command the arguments that name what is scored, with what, and how."""


class Request(NamedTuple):
    """The arguments of ``with_request`` as a run takes them."""

    models: "tuple[ModelEntry, ...]"
    images: str
    settings: ScoreSettings
    options: RunOptions


def collect_request(given: dict[str, Any]) -> Request:
    """Return the request made of a command's arguments, taking them out of ``given``."""
    settings, options = collect(ScoreSettings, given), collect(RunOptions, given)
    from soapworks.tasks.plan.models import models_of, read_model_list

    model_list = given.pop("model_list")
    listed = read_model_list(model_list) if model_list else []
    models = models_of([*given.pop("checkpoints"), *listed], given.pop("architecture"))
    return Request(models, given.pop("images"), settings, options)


def collect(model: type[S], given: dict[str, Any]) -> S:
    """Return the model made of a command's options, taking them out of ``given``.

    Raises
    ------
    click.UsageError
        Where values do not go together.
    """
    values = {name: given.pop(name) for name in model.model_fields if name in given}
    try:
        return model(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part in model.model_fields)
        message = first["msg"].removeprefix("Value error, ")
        option = f"--{place.replace('_', '-')}: " if place else ""
        raise click.UsageError(f"{option}{message}.") from error


def engine_of(*, quiet: bool, verbose: bool) -> Callable[[], Any]:
    """Return what makes Prefect usable inside a ``with`` block."""
    from soapworks.flows.engine.session import orchestrated

    return partial(orchestrated, quiet=quiet, verbose=verbose or "--debug" in sys.argv)
