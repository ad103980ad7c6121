"""The tables that are stored: their columns, dtypes and meaning, checked on write and on read."""

import io
from dataclasses import dataclass

import pandas as pd

from soapworks.errors import DamagedProductError, InputError

SCORES_TABLE = "scores.parquet"


@dataclass(frozen=True)
class Column:
    """Declaration of one column."""

    name: str
    dtype: str
    """pandas dtype."""
    meaning: str


SCORES: tuple[Column, ...] = (
    Column("layer", "str", "layer that was read"),
    Column("component", "int64", "principal component, 0 has the largest variance"),
    Column("explained_variance", "float64", "eigenvalue of the covariance"),
    Column("variance_share", "float64", "eigenvalue over the sum of all eigenvalues"),
    Column("mean_p", "float64", "mean over positions of the positive share of real images"),
    Column("mean_q", "float64", "mean over positions of the positive share of synthetic images"),
    Column("si", "float64", "semantic-invariance score; .7071 is the uninformative floor"),
    Column("standard_error", "float64", "jackknife over blocks of images; NaN below two blocks"),
    Column("rank", "int64", "0 has the highest score; ties: the lower component first"),
)
"""Columns of a layer's score table, one row per component in component order."""

HEAD_SCORES = (*SCORES, Column("weight", "float64", "suppression weight of this head"))
"""Columns of the score table that lies beside a head."""


def write_scores(table: pd.DataFrame, columns: tuple[Column, ...] = SCORES) -> bytes:
    """Return a score table as parquet.

    Raises
    ------
    InputError
        Where the columns are not the declared ones.
    """
    names = [column.name for column in columns]
    if list(table.columns) != names:
        raise InputError(f"a score table has the columns {names}; got {list(table.columns)}.")
    buffer = io.BytesIO()
    table.astype({c.name: c.dtype for c in columns}).to_parquet(buffer, index=False)
    return buffer.getvalue()


def read_scores(data: bytes, columns: tuple[Column, ...] = SCORES) -> pd.DataFrame:
    """Read a score table back.

    Raises
    ------
    DamagedProductError
        Where the bytes are no parquet table or the columns are not the declared ones.
    """
    try:
        table = pd.read_parquet(io.BytesIO(data))
    except (OSError, ValueError) as error:
        raise DamagedProductError(
            f"a score table cannot be read ({error}): run `soapworks verify --repair`."
        ) from error
    if list(table.columns) != [column.name for column in columns]:
        raise DamagedProductError(
            f"a score table has the columns {list(table.columns)}, not those of the format: "
            "run `soapworks verify --repair`."
        )
    return table
