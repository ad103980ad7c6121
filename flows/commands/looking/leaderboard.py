"""``soapworks leaderboard``: models by layers, of everything a store has scores of."""

from typing import TYPE_CHECKING, Any

import click

from soapworks.flows.commands.options import (
    comparison_option,
    json_option,
    quiet_option,
    store_option,
)

if TYPE_CHECKING:
    import pandas as pd

    from soapworks.storage_schemas.store import Store

ORDER_NAMES = ("model", "top-si", "above", "variance", "error", "made")

MATRIX = {"top-si": "top_si", "above": "n_invariant", "variance": "invariant_variance_share"}
"""What a matrix can show: name, column."""


@click.command()
@store_option
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="TEXT",
    help="Part of a checkpoint's or architecture's name, or a pattern (*mae*); may be repeated.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="LAYER",
    help="A layer or a pattern (norm, blocks.*); may be repeated.",
)
@click.option("--best", is_flag=True, help="Of every model the layer that comes first in --sort.")
@click.option(
    "--sort",
    "order",
    type=click.Choice(ORDER_NAMES),
    default="model",
    show_default=True,
    help="Models by their highest SI with layers in forward order; or rows by SI, components above "
    ".75, their share of the variance, smallest error, newest head.",
)
@click.option("--top", type=click.IntRange(min=1), help="Largest number of rows of a comparison.")
@click.option(
    "--matrix",
    type=click.Choice(list(MATRIX)),
    help="A row per model and a column per layer, of one figure.",
)
@comparison_option
@click.option("--all-heads", is_flag=True, help="Every head of the same scores, not the newest.")
@click.option("--rebuild", is_flag=True, help="Read every head's record again.")
@click.option(
    "--output",
    metavar="FILE",
    help="Write the rows, all columns, to a .parquet, .csv or .json file, a path or URL.",
)
@json_option
@quiet_option
def leaderboard(
    store: str,
    models: tuple[str, ...],
    layers: tuple[str, ...],
    best: bool,
    order: str,
    top: int | None,
    matrix: str | None,
    comparison: str,
    all_heads: bool,
    rebuild: bool,
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare models and layers by what a store has scores of.

    A row per (checkpoint, layer): highest SI with its standard error, components above .75 and
    their share of the variance, whether the last run found it there, and the head. Scores of
    different images or synthetic sets do not compare and are kept apart: a table each, the newest
    first. JSON and files have all columns.
    """
    from soapworks.flows.display.progress import showing_progress
    from soapworks.storage_schemas.store import Store
    from soapworks.tasks.reports.ranking import filter_rows

    place = Store(store)
    with showing_progress(quiet=quiet):
        table = filter_rows(
            current(place, rebuild=rebuild),
            models=models,
            layers=layers,
            comparison=comparison,
            all_heads=all_heads,
            order=order,
            best=best,
            top=top,
        )
    whole = table.assign(head=[f"{place.url}/{address}" for address in table["head"]])
    if output:
        write(whole, output)
    if as_json:
        click.echo(as_json_text(whole))
    elif not output:
        print_tables(table, place, matrix)


def current(store: "Store", *, rebuild: bool) -> "pd.DataFrame":
    """Return the leaderboard, and keep it in the store where that can be written."""
    from soapworks.errors import StoreError
    from soapworks.tasks.events import Notice, emit
    from soapworks.tasks.reports.leaderboard import (
        kept_is_current,
        read_leaderboard,
        update_leaderboard,
    )

    table = read_leaderboard(store, rebuild=rebuild)
    if len(table) and (rebuild or not kept_is_current(store, table)):
        try:
            update_leaderboard(store, rebuild=rebuild)
        except StoreError as error:
            emit(Notice(f"the leaderboard could not be kept: {error}"))
    return table


def write(table: "pd.DataFrame", output: str) -> None:
    """Write rows to a file whose ending says how.

    Raises
    ------
    InputError
        For another ending.
    """
    import io

    from soapworks.errors import InputError
    from soapworks.storage_schemas.layout.tables import LEADERBOARD, write_table
    from soapworks.storage_schemas.locations.location import Location

    place = Location.parse(output)
    ending = place.name.rpartition(".")[2].lower()
    if ending == "parquet":
        data = write_table(table, LEADERBOARD)
    elif ending == "csv":
        text = io.StringIO()
        table.to_csv(text, index=False)
        data = text.getvalue().encode()
    elif ending == "json":
        data = as_json_text(table).encode() + b"\n"
    else:
        raise InputError(
            f"the leaderboard cannot be written as {place.name!r}: name a .parquet, .csv or .json "
            "file."
        )
    place.write_bytes(data)


def as_json_text(table: "pd.DataFrame") -> str:
    """Return rows as a JSON list; what is not known is null."""
    import json

    plain = table.astype(object).where(table.notna(), None)
    return json.dumps(plain.to_dict("records"), indent=2)


def print_tables(table: "pd.DataFrame", store: "Store", figure: str | None) -> None:
    """Print a table per comparison, of rows or of one figure by model and layer."""
    from soapworks.flows.display.terminal import echo
    from soapworks.tasks.reports.ranking import comparisons

    if not len(table):
        echo(f"no scores to compare in {store.url}")
        return
    for rows in comparisons(table):
        if figure is None:
            print_rows(rows)
        else:
            print_matrix(rows, figure)
    echo(f"heads: {store.url}/heads/   (soapworks show KEY)")


COLUMNS = {
    "checkpoint": "model",
    "layer": "layer",
    "top_si": "top SI",
    "top_standard_error": "± error",
    "top_component": "component",
    "n_invariant": "above .75",
    "invariant_variance_share": "their variance",
    "suppression": "suppressed",
    "cached": "cached",
    "made": "made",
    "head": "head",
    "seen_at": "seen at",
}
"""Columns of a printed table: name, heading."""


def print_rows(rows: "pd.DataFrame") -> None:
    """Print one comparison, a row per (checkpoint, layer)."""
    from soapworks.flows.display.terminal import DataTable, console, text

    # Where all models were seen alike, the title says it.
    shown = [name for name in COLUMNS if name != "seen_at" or rows["seen_at"].nunique() > 1]
    table = DataTable()
    for name in shown:
        left = name in ("checkpoint", "layer", "suppression", "seen_at")
        table.add_column(COLUMNS[name], justify="left" if left else "right", overflow="fold")
    for row in rows.to_dict("records"):
        table.add_row(*(_cell(name, row[name]) for name in shown))
    console().print(text(heading(rows)), table, sep="\n")


def print_matrix(rows: "pd.DataFrame", figure: str) -> None:
    """Print one comparison, a row per checkpoint and a column per layer."""
    from soapworks.flows.display.tables import cell
    from soapworks.flows.display.terminal import DataTable, console, text
    from soapworks.tasks.reports.ranking import matrix

    wide = matrix(rows, MATRIX[figure])
    table = DataTable()
    for name in wide.columns:
        left = name == "checkpoint"
        table.add_column(
            "model" if left else str(name),
            justify="left" if left else "right",
            overflow="fold" if left else "ellipsis",
        )
    for row in wide.to_dict("records"):
        figures = (cell(MATRIX[figure], _whole(value)) for value in list(row.values())[1:])
        table.add_row(row["checkpoint"], *figures)
    console().print(text(f"{figure} · {heading(rows)}"), table, sep="\n")


def heading(rows: "pd.DataFrame") -> str:
    """Return what the rows of one comparison share, in words."""
    first = rows.iloc[0]
    amounts = f"{first['n_real']} real and {first['n_synthetic']} synthetic images"
    if not first["comparison"]:
        return f"{amounts}: which ones is not known, so these may not compare"
    words = [
        f"comparison {first['comparison']}: {amounts}",
        f"real {first['images'][:12]}",
        first["preprocessing"],
        f"synthetic {first['noise']}",
    ]
    if rows["seen_at"].nunique() == 1:
        words.append(first["seen_at"])
    return " · ".join(words)


def _cell(name: str, value: Any) -> str:
    from soapworks.flows.display.tables import cell

    if name == "head":
        return value.rpartition("-")[2]
    if name == "made":
        return value[:16].replace("T", " ")
    if name == "cached" and not isinstance(value, bool):
        return "–"
    return cell(name, value)


def _whole(value: Any) -> Any:
    # A column of whole numbers with a gap comes back as floats.
    return int(value) if isinstance(value, float) and value.is_integer() and value > 1 else value
