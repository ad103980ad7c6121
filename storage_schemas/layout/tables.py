"""The tables that are stored: their columns, dtypes and meaning, checked on write and on read."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from soapworks.errors import DamagedProductError, InputError
from soapworks.storage_schemas.layout.layer_summary import LayerSummary, dtypes

SCORES_TABLE = "scores.parquet"
LEADERBOARD_TABLE = "leaderboard.parquet"

MAX_ROWS = 1 << 24
"""Rows above which a table of unknown length is not read."""


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
    Column(
        "si",
        "float64",
        "semantic-invariance score, .7071 is uninformative; NaN: no variance",
    ),
    Column("standard_error", "float64", "jackknife over blocks of images; NaN below two blocks"),
    Column("rank", "int64", "0 has the highest score; ties: the lower component first"),
)
"""Columns of a layer's score table, one row per component in component order."""

HEAD_SCORES = (*SCORES, Column("weight", "float64", "suppression weight of this head"))
"""Columns of the score table that lies beside a head."""


def _summary_columns(*names: str) -> tuple[Column, ...]:
    fields, kinds = LayerSummary.model_fields, dtypes(*names)
    return tuple(
        Column(name, dtype, fields[name].description or "") for name, dtype in kinds.items()
    )


LEADERBOARD: tuple[Column, ...] = (
    *_summary_columns("checkpoint", "layer", "top_si", "top_standard_error", "top_component"),
    *_summary_columns("n_invariant", "invariant_variance_share", "n_components", "n_suppressed"),
    Column("suppression", "str", "how the head's weights were made"),
    *_summary_columns("cached", "n_real", "n_synthetic"),
    Column("comparison", "str", "equal where scores may be compared; empty: not known"),
    Column("images", "str", "digest of the set of real images; empty: not known"),
    Column("preprocessing", "str", "how images were brought to the model's input"),
    Column("noise", "str", "spec, its version and seed of the synthetic images"),
    Column("seen_at", "str", "side of the input, pixels; precision of the pass and of storage"),
    Column("page", "str", "name of the report below reports/ that it is part of"),
    Column("made", "str", "when the head was made, UTC"),
    Column("architecture", "str", "timm's name of the architecture"),
    Column("weights", "str", "digest of the checkpoint's tensors"),
    Column("scores", "str", "key of the scores"),
    *_summary_columns("key", "head"),
)
"""Columns of the leaderboard, a row per head."""


def write_table(table: pd.DataFrame, columns: tuple[Column, ...]) -> bytes:
    """Return a table as parquet, with the declared columns in the declared order."""
    buffer = io.BytesIO()
    names = [column.name for column in columns]
    table[names].astype({c.name: c.dtype for c in columns}).to_parquet(buffer, index=False)
    return buffer.getvalue()


def write_scores(table: pd.DataFrame, columns: tuple[Column, ...] = SCORES) -> bytes:
    """Return a score table as parquet.

    Raises
    ------
    InputError
        Where the columns are not the declared ones.
    """
    names = [column.name for column in columns]
    if list(table.columns) != names:
        raise InputError(f"a score table has the columns {names}; got {list(table.columns)}")
    return write_table(table, columns)


def read_scores(
    data: bytes, columns: tuple[Column, ...] = SCORES, *, n_rows: int | None = None
) -> pd.DataFrame:
    """Read a score table back.

    Parameters
    ----------
    data
        Bytes of the parquet file.
    columns
        The columns that it must have.
    n_rows
        The rows that it must have, where they are known.

    Raises
    ------
    DamagedProductError
        Where the bytes are no parquet table, or its columns or rows are not those declared.
    """
    return read_table(data, "a score table", [column.name for column in columns], n_rows)


def read_table(
    data: bytes, what: str, columns: Sequence[str], n_rows: int | None = None
) -> pd.DataFrame:
    """Read a parquet table whose columns and rows are checked before its values are decoded.

    Parameters
    ----------
    data
        Bytes of the parquet file: a few of them can state any number of rows.
    what
        Name of the table in errors.
    columns, n_rows
        As for :func:`read_scores`; where the rows are not known, at most ``MAX_ROWS``.

    Raises
    ------
    DamagedProductError
        As for :func:`read_scores`.
    """
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(io.BytesIO(data))
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        stated = max(file.metadata.num_rows, sum(groups))
        # The index of a table of pandas may stand among the columns.
        names = [name for name in file.schema_arrow.names if not name.startswith("__")]
        if names != list(columns):
            raise ValueError(f"its columns {names} are not those of the format")
        if stated > MAX_ROWS or (n_rows is not None and stated != n_rows):
            limit = f"at most {MAX_ROWS}" if n_rows is None else n_rows
            raise ValueError(f"it has {stated} rows where it should have {limit}")
        return file.read().to_pandas()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedProductError.of(what, f"it cannot be read ({error})") from error
