"""How a folder of checkpoints is watched: every option, once."""

from typing import Literal

from pydantic import Field

from soapworks.tasks.settings import Settings


class WatchOptions(Settings):
    """When a checkpoint counts as arrived, who scores it, and how failures are dealt with."""

    pattern: str = Field(
        "*", description="Glob on names or on paths below the folder: which checkpoints count"
    )
    stable_seconds: float = Field(
        10.0,
        ge=0,
        description="A checkpoint is taken once it stood unchanged so long, seconds; at once "
        "where NAME.done lies beside it",
    )
    interval: float = Field(60.0, gt=0, description="Time between two looks, seconds")
    start: Literal["here", "event"] = Field(
        "here",
        description="here: score in this process; event: emit the event only, a deployment that "
        "it triggers scores",
    )
    max_attempts: int = Field(5, ge=1, description="Attempts after which a checkpoint is given up")
    backoff_seconds: float = Field(
        60.0, gt=0, description="Pause after a first failure, seconds; doubles with every further"
    )
    max_backoff_seconds: float = Field(3600.0, gt=0, description="Longest such pause, seconds")
    event_patience: float = Field(
        900.0,
        gt=0,
        description="With start = event: an event that nobody took up is emitted again after so "
        "long, seconds; doubles with every further",
    )
    chart: Literal["png", "svg"] = Field("png", description="Format of the charts")
    retry: bool = Field(False, description="Try again at once what failed or was given up")
