"""Command-line options made from the settings' fields: defined once, there."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo

from soapworks.tasks.settings import RunOptions, ScoreSettings, Settings

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)


class Numbers(click.ParamType):
    """Numbers separated by commas."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is no list of numbers: write for example 0,1,5.")


def with_options(model: type[Settings]) -> Callable[[F], F]:
    """Return a decorator that gives a command one option per field of the model."""

    def decorate(command: F) -> F:
        for name, field in reversed(model.model_fields.items()):
            command = _option(name, field)(command)
        return command

    return decorate


def with_request(command: F) -> F:
    """Give a command the arguments that say what is scored, with what, and how."""
    for decorate in reversed(
        (
            click.argument("checkpoints", nargs=-1, metavar="[CHECKPOINT]..."),
            click.option(
                "--list",
                "model_list",
                metavar="YAML",
                help="File or URL that lists checkpoints, each with settings of its own.",
            ),
            click.option("--images", required=True, help="Folder of photographs, a path or URL."),
            click.option(
                "--architecture", help="timm's name of the architecture, for weights files."
            ),
            with_options(ScoreSettings),
            with_options(RunOptions),
        )
    ):
        command = decorate(command)
    return command


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
        if first["type"].startswith("byte_size"):
            message = f"{first['input']!r} is not a size; write 4GiB, 800MB or a number of bytes"
        raise click.UsageError(
            f"{'--' + place.replace('_', '-') + ': ' if place else ''}{message}."
        ) from error


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    flags = [f"--{name.replace('_', '-')}"]
    kind = field.annotation
    extra: dict[str, Any] = {}
    parts = [part for part in get_args(kind) if part is not type(None)]
    if kind is bool:
        flags = [f"{flags[0]}/--no-{name.replace('_', '-')}"]
    elif kind is ByteSize:
        extra |= {"type": str, "metavar": "SIZE"}
    elif name == "mu":
        extra["type"] = _NumberOrThreshold()
    elif get_origin(kind) is Literal:
        extra["type"] = click.Choice([str(choice) for choice in get_args(kind)])
    elif "tuple" in str(kind):
        extra["type"] = Numbers(int if "int" in str(kind) else float)
    elif parts:
        extra["type"] = parts[0]
    else:
        extra["type"] = kind
    default = field.get_default(call_default_factory=True)
    return click.option(
        *flags,
        name,
        default=None if default == () else default,
        show_default=default not in (None, ()),
        help=field.description,
        **extra,
    )


class _NumberOrThreshold(click.ParamType):
    name = "number|threshold"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        if value == "threshold" or isinstance(value, float):
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'threshold'.")


__all__ = ["RunOptions", "ScoreSettings", "collect", "with_request"]
