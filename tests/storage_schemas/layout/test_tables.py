"""Score tables: declared columns, in and out."""

import io

import numpy as np
import pandas as pd
import pytest

from soapworks.errors import DamagedProductError, InputError
from soapworks.storage_schemas.layout.tables import HEAD_SCORES, SCORES, read_scores, write_scores


def table() -> pd.DataFrame:
    columns = {c.name: np.arange(4) * (0.5 if c.dtype == "float64" else 1) for c in SCORES}
    return pd.DataFrame(columns | {"layer": "norm"})


def test_a_table_comes_back() -> None:
    pd.testing.assert_frame_equal(read_scores(write_scores(table())), table(), check_dtype=False)


def test_equal_tables_give_equal_bytes() -> None:
    assert write_scores(table()) == write_scores(table())


def test_missing_and_further_columns_are_refused() -> None:
    with pytest.raises(InputError, match="columns"):
        write_scores(table().drop(columns="si"))
    with pytest.raises(InputError, match="columns"):
        write_scores(table(), HEAD_SCORES)


def test_other_tables_and_other_bytes_are_damage() -> None:
    buffer = io.BytesIO()
    table().drop(columns="si").to_parquet(buffer)
    for data in (buffer.getvalue(), b"nothing"):
        with pytest.raises(DamagedProductError, match="verify --repair"):
            read_scores(data)
