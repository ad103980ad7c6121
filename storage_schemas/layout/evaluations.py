"""Evaluations: how well the tokens of a layer do in a task, image by image.

One product holds the values of one (layer, head) or of the layer's raw features; what the head
changes is computed when two of them are read, and never stored.
"""

from typing import ClassVar, Literal

import pandas as pd
from pydantic import Field

from soapworks.errors import InputError
from soapworks.storage_schemas.layout.recipes import KEY_PATTERN, Part, SubjectRecipe
from soapworks.storage_schemas.layout.tables import Column, read_table, write_table

VALUES_TABLE = "values.parquet"

VALUES: tuple[Column, ...] = (
    Column("image", "int64", "number of the image, or pair of images, in the order of the data"),
    Column("group", "str", "images of one group are no independent observations"),
    Column("measure", "str", "what was measured; larger is better"),
    Column("value", "float64", "the measure of this image"),
)
"""Columns of an evaluation, a row per (image, measure)."""


class EvaluationInput(Part):
    """How labelled images become the model's input: as a head's real images did."""

    image_size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Literal["float32", "bfloat16", "float16"]
    """Precision in which the forward pass is computed."""
    preprocessing: Literal["squash", "timm"]
    interpolation: str
    crop_fraction: float
    crop_mode: str


class EvaluationRecipe(SubjectRecipe):
    """A task's measures on labelled images, with a head or without."""

    kind: ClassVar[str] = "evaluations"
    version: Literal[1] = 1
    head: str | None = Field(None, pattern=KEY_PATTERN)
    """Key of the head that the tokens pass; None for raw features."""
    task: str
    settings: tuple[tuple[str, str], ...] = ()
    """Settings of the task: (name, value as JSON), sorted by name."""
    data: str = Field(pattern=KEY_PATTERN)
    """Digest of the labelled images that are judged, in order."""
    train: str | None = Field(None, pattern=KEY_PATTERN)
    """Digest of the labelled images that are searched, where the task has some."""
    guide: str | None = Field(None, pattern=KEY_PATTERN)
    """Key of the scores whose top component guides the task, where one does."""
    input: EvaluationInput

    def _slug_parts(self) -> tuple[str, ...]:
        return (*super()._slug_parts(), self.task, "head" if self.head else "raw")


def write_values(table: pd.DataFrame) -> bytes:
    """Return the values of an evaluation as parquet.

    Raises
    ------
    InputError
        Where the columns are not the declared ones.
    """
    names = [column.name for column in VALUES]
    if list(table.columns) != names:
        raise InputError(f"an evaluation has the columns {names}; got {list(table.columns)}")
    return write_table(table, VALUES)


def read_values(data: bytes, *, n_rows: int | None = None) -> pd.DataFrame:
    """Read the values of an evaluation back.

    Parameters
    ----------
    data
        Bytes of the parquet file.
    n_rows
        The rows that it must have, where they are known.

    Raises
    ------
    DamagedProductError
        Where the bytes are no parquet table, or its columns or rows are not those declared.
    """
    return read_table(data, "an evaluation", [column.name for column in VALUES], n_rows)
