"""What is asked of a leaderboard: which rows, in which order."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import pandas as pd

from soapworks.backbones.layers import LAYER

ORDERS = {
    "model": "models by their highest SI, layers from the first to the last",
    "top-si": "highest SI first",
    "above": "most components above .75 first",
    "variance": "largest share of the variance above .75 first",
    "error": "smallest standard error first",
    "made": "newest head first",
}
"""Orders of the rows: name, meaning."""

_COLUMN = {
    "top-si": ("top_si", False),
    "above": ("n_invariant", False),
    "variance": ("invariant_variance_share", False),
    "error": ("top_standard_error", True),
    "made": ("made", False),
}

COMPARABLE = ["comparison", "n_real", "n_synthetic"]
"""Columns whose values rows that may be compared share."""

MODEL = ["weights", "architecture"]
"""Columns that tell one model from another, whatever it was called."""


def filter_rows(
    table: pd.DataFrame,
    *,
    models: Sequence[str] = (),
    layers: Sequence[str] = (),
    comparison: str = "",
    all_heads: bool = False,
    order: str = "model",
    best: bool = False,
    top: int | None = None,
) -> pd.DataFrame:
    """Return rows of a leaderboard, one comparison after the other, the newest first.

    Parameters
    ----------
    table
        As :func:`soapworks.tasks.reports.leaderboard.read_leaderboard` gives it.
    models
        Parts of checkpoints' or architectures' names, or patterns (``*mae*``); all by default.
    layers
        Layers or patterns (``blocks.*``, ``norm``); all by default.
    comparison
        First digits of a comparison.
    all_heads
        Every head of the same scores, not the newest alone.
    order
        One of ``ORDERS``.
    best
        Of every model the one layer that comes first; with order ``model`` the highest SI.
    top
        Largest number of rows of a comparison.
    """
    table = _newest_first(table)
    if models:
        names = zip(table["checkpoint"], table["architecture"], strict=True)
        table = table[[any(_matches(name, models, part=True) for name in pair) for pair in names]]
    if layers:
        table = table[[_matches(layer, layers) for layer in table["layer"]]]
    if comparison:
        table = table[table["comparison"].str.startswith(comparison)]
    if not all_heads:
        newest = table.sort_values(["made", "key"]).drop_duplicates("scores", keep="last")
        table = table.loc[[at for at in table.index if at in newest.index]]
    groups = [_of_one(rows, order=order, best=best, top=top) for rows in comparisons(table)]
    return pd.concat(groups, ignore_index=True) if groups else table.reset_index(drop=True)


def comparisons(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of every comparison, in the order in which the table has them.

    Where it is not known how scores were measured, only those of one number of images are put
    together, and nothing says that they may be compared.
    """
    return [rows for _, rows in table.groupby(COMPARABLE, sort=False)]


def _newest_first(table: pd.DataFrame) -> pd.DataFrame:
    """Put the newest comparison first, and last those of which nothing is known."""
    newest = table.groupby(COMPARABLE)["made"].transform("max")
    ordered = table.assign(newest=newest, known=table["comparison"] != "")
    return ordered.sort_values(["known", "newest"], ascending=False, kind="stable")[table.columns]


def matrix(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one comparison as models by layers: a row per checkpoint, forward order of layers.

    Where a model has several rows for a layer, the first counts.
    """
    layers = sorted(set(table["layer"]), key=layer_order)
    first = table.drop_duplicates([*MODEL, "layer"])
    wide = first.pivot(index=MODEL, columns="layer", values=column)[layers]
    names = table.drop_duplicates(MODEL).set_index(MODEL)["checkpoint"]
    wide = wide.reindex(names.index)
    wide.insert(0, "checkpoint", names)
    return wide.reset_index(drop=True)


def layer_order(layer: str) -> tuple[int, int, str]:
    """Return what sorts layers from the first to the last: ``blocks.2`` before ``blocks.10``."""
    found = LAYER.fullmatch(layer)
    # Branches of a block come before its sum.
    if found and found["block"]:
        return (0, int(found["block"]), found["tap"] or "~")
    return (1, 0, layer)


def _of_one(rows: pd.DataFrame, *, order: str, best: bool, top: int | None) -> pd.DataFrame:
    """Order the rows of one comparison."""
    column, ascending = _COLUMN["top-si" if order == "model" else order]
    forward = {layer: n for n, layer in enumerate(sorted(set(rows["layer"]), key=layer_order))}
    rows = rows.assign(forward=rows["layer"].map(forward)).sort_values("forward")
    rows = rows.sort_values(column, ascending=ascending, kind="stable")
    if best:
        rows = rows.drop_duplicates(MODEL)
    elif order == "model":
        place = {model: n for n, model in enumerate(_models(rows))}
        rows = rows.assign(place=[place[model] for model in _pairs(rows)])
        rows = rows.sort_values(["place", "forward"], kind="stable").drop(columns="place")
    return rows.drop(columns="forward").head(len(rows) if top is None else top)


def _models(rows: pd.DataFrame) -> Iterable[tuple[str, ...]]:
    return dict.fromkeys(_pairs(rows))


def _pairs(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(zip(*(rows[name] for name in MODEL), strict=True))


def _matches(name: str, patterns: Iterable[str], *, part: bool = False) -> bool:
    return any(fnmatchcase(name, pattern) or (part and pattern in name) for pattern in patterns)
