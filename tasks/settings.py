"""Everything that can be set for a run: what shapes the result, and what only shapes the work.

The command line, the Prefect flow and Python callers all read these two models, so an option is
defined, named, documented and checked in one place.
"""

import os
from typing import Literal

import psutil
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

KeepFeatures = Literal["all", "none"]
"""Storage modes: features stored, or streamed through their statistics."""


class Settings(BaseModel):
    """A frozen set of options; an unknown name is an error."""

    # Values of errors may be addresses with secrets.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ScoreSettings(Settings):
    """What the scores and heads depend on."""

    part: str | None = Field(
        None,
        description="Part of the file with the weights (e.g. model_ema), where it holds several",
    )
    layers: str = Field("all", description="Layers, comma-separated; 'all' is every block and norm")
    preprocessing: Literal["squash", "timm"] = Field(
        "squash", description="squash: the paper's; timm: the model's own evaluation transform"
    )
    image_size: int | None = Field(
        None, ge=1, description="Side of the model's input, pixels; the model's own by default"
    )
    mean: tuple[float, float, float] | None = Field(
        None, description="Channel means that inputs are normalised with; the model's by default"
    )
    std: tuple[float, float, float] | None = Field(
        None, description="Channel standard deviations; the model's by default"
    )
    max_images: int | None = Field(None, ge=1, description="Score on a seeded sample this large")
    image_seed: int = Field(0, ge=0, description="Seed of that sample")
    max_unreadable: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of images that may be left out as unreadable, links out of the "
        "folder and formats that are not read included",
    )
    synthetic_images: int = Field(1000, ge=1, description="Number of synthetic images")
    spec: str = Field("authors", description="Synthetic image spec: authors or balanced")
    noise_seed: int = Field(0, ge=0, description="Seed of the synthetic images")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the forward pass"
    )
    store_dtype: Literal["auto", "float16", "float32"] = Field(
        "auto",
        description="Precision in which features are stored; auto: float32 for layers where "
        "rounding to float16 adds an error above 0.1 % of a channel's or component's variance",
    )
    moments_precision: Literal["float32", "float64"] = Field(
        "float32", description="Precision of the products behind the PCA; merged in float64"
    )
    block_images: int = Field(64, ge=1, description="Images in a block: shard and jackknife unit")
    segment_images: int = Field(
        1024, ge=1, description="Most images in a segment: the unit of growth"
    )
    weights: Literal["sigmoid", "scores", "selected"] = Field(
        "sigmoid", description="How the suppression weights are made"
    )
    mu: float | Literal["threshold"] = Field(
        2.0, description="Number of components to suppress, or 'threshold': those above .75"
    )
    tau: float = Field(0.05, gt=0, description="Softness of the cut after mu components")
    components: tuple[int, ...] = Field(
        (), description="Components to suppress with weight 1 (with weights = selected)"
    )
    centred: bool = Field(False, description="Add the bias that keeps the mean token in place")

    @model_validator(mode="after")
    def _check(self) -> "ScoreSettings":
        if isinstance(self.mu, float) and self.mu < 0:
            raise ValueError(f"mu is {self.mu}; it must be 0 or more, or 'threshold'")
        if (self.weights == "selected") != bool(self.components):
            raise ValueError("weights = selected and a list of components go together")
        if self.segment_images % self.block_images:
            raise ValueError(
                f"segment_images ({self.segment_images}) must be a multiple of block_images "
                f"({self.block_images})"
            )
        return self


def check_dask_address(address: str) -> None:
    """Refuse a Dask address with a user, a password or a query.

    Raises
    ------
    ValueError
        The message does not repeat the address.
    """
    if "@" in address or "?" in address:
        raise ValueError(
            "a Dask address has no user, password or query: give one like tcp://host:8786, or "
            "tls://host:8786 with certificates in Dask's distributed.comm.tls.* settings"
        )


class RunOptions(Settings):
    """How the work is done; none of it changes a key."""

    store: str = Field("store", description="Store of all products: a folder or s3://bucket/prefix")
    keep_features: KeepFeatures = Field(
        "all",
        description="all: store the features; none: store small products only, at the cost of a "
        "second pass of the real images",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: int | None = Field(
        None, ge=1, description="Images in a forward pass; 16 on a CPU and 64 on a GPU by default"
    )
    memory: ByteSize = Field(
        default_factory=lambda: ByteSize(psutil.virtual_memory().total // 2),
        ge=64 << 20,
        description="Memory that the process may use for statistics, bytes (or 4GiB, 800MB); "
        "half of the machine's by default",
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Threads that read images and compute statistics",
    )
    dask: str | None = Field(
        None,
        description="Address of a running Dask scheduler (tcp://host:8786) whose workers do the "
        "passes and statistics; threads of this process by default",
    )
    concurrency_limit: str | None = Field(
        None,
        description="Name of the Prefect concurrency limit that a forward pass takes a slot of; "
        "soapworks-gpu on CUDA devices by default",
    )
    report: bool = Field(True, description="Write a report of what was scored, below reports/")
    reports_url: str | None = Field(
        None,
        pattern=r"^(https?://\S+)?$",
        description="Address at which a browser finds the store's reports/ folder, for links",
    )
    lease_seconds: float = Field(
        60.0, gt=0, description="Seconds without a heartbeat after which a lease expires"
    )

    @field_validator("dask")
    @classmethod
    def _check_dask(cls, value: str | None) -> str | None:
        if value:
            check_dask_address(value)
        return value

    @field_validator("dask", "concurrency_limit")
    @classmethod
    def _nothing_is_none(cls, value: str | None) -> str | None:
        """Read an empty name as no name: templates with an unset variable give one."""
        return value or None


class WatchOptions(Settings):
    """How a folder is watched: what counts as a checkpoint, who scores it, and the retries."""

    pattern: str = Field(
        "*", description="Glob on names or on paths below the folder: which checkpoints count"
    )
    stable_seconds: float = Field(
        10.0,
        ge=0,
        description="Seconds a checkpoint must stay unchanged before it is scored; NAME.done "
        "skips the wait",
    )
    interval: float = Field(60.0, gt=0, description="Seconds between two listings of the folder")
    start: Literal["here", "event"] = Field(
        "here",
        description="here: score in this process; event: emit the event only, a deployment that "
        "it triggers scores",
    )
    max_attempts: int = Field(5, ge=1, description="Attempts after which a checkpoint is given up")
    backoff_seconds: float = Field(
        60.0, gt=0, description="Seconds before the first retry; doubles with every further one"
    )
    max_backoff_seconds: float = Field(3600.0, gt=0, description="Limit of that delay, seconds")
    stall_seconds: float = Field(
        1800.0,
        gt=0,
        description="Seconds without progress after which scoring a checkpoint is abandoned and "
        "counts as failed",
    )
    event_patience: float = Field(
        900.0,
        gt=0,
        description="With start = event: seconds after which an event without effect is emitted "
        "again; doubles with every further one",
    )
    chart: Literal["png", "svg"] = Field("png", description="Format of the charts")
    retry: bool = Field(False, description="Retry at once what failed or was given up")
