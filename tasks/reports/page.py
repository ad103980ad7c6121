"""The report of a checkpoint: one HTML page with everything in it, made from the store alone.

A page shows all layers of a checkpoint that were measured alike and whose heads were made alike.
It holds no script and loads nothing; equal products give equal bytes.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from soapworks.errors import MissingProductError, StoreError
from soapworks.names import printable
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Product, read_product
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.plan.recipes import CheckpointPlan
from soapworks.tasks.reports.charts import by_layer, by_rank
from soapworks.tasks.reports.leaderboard import REPORTS, read_leaderboard, replacing
from soapworks.tasks.reports.ranking import COMPARABLE, comparisons, layer_order
from soapworks.tasks.reports.response_maps import N_TOP, best, map_png, response_maps, scores_of
from soapworks.tasks.stages.rebuild import Inputs

INDEX = "index.html"

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Page:
    """A report, whole."""

    name: str
    """Its file's name."""
    checkpoint: str
    """What the checkpoint is called."""
    html: bytes


def write_report(store: Store, plan: CheckpointPlan, called: str = "") -> Location:
    """Write the report of a checkpoint that was scored, and the list of all reports.

    Parameters
    ----------
    store
        Where the products are, and the report goes.
    plan
        What was scored; layers that the store has besides are on the page too.
    called
        What the run called the checkpoint.

    Returns
    -------
    Location
        The page, replaced whole.

    Raises
    ------
    StoreError
        Where products are gone, or the store cannot be read or written.
    """
    table = read_leaderboard(store)
    keys = {layer.head.key for layer in plan.layers}
    mine = table[table["key"].isin(keys)]
    if mine.empty:
        raise MissingProductError(
            f"{plan.identity.identifier} has no heads in {store.url}: run soapworks score."
        )
    called = called or plan.identity.identifier
    page = make_page(store, table, str(mine["page"].iloc[0]), called=called)
    return publish_pages(store, [page])[0]


def make_page(
    store: Store,
    table: pd.DataFrame,
    name: str,
    *,
    called: str = "",
    n: int = N_TOP,
    listed: bool = True,
) -> Page:
    """Return a report.

    Parameters
    ----------
    store
        Where the products are.
    table
        The leaderboard.
    name
        Which page of it.
    called
        What the checkpoint is called; as on the leaderboard by default.
    n
        Components that are shown of every layer.
    listed
        Whether it will stand beside the list of all reports.

    Raises
    ------
    MissingProductError
        If the leaderboard has no such page.
    StoreError
        Where a head cannot be read.
    """
    rows = table[table["page"] == name].sort_values(["made", "key"])
    rows = rows.drop_duplicates("layer", keep="last")
    if rows.empty:
        raise MissingProductError(f"there is nothing to report as {name} in {store.url}.")
    rows = rows.iloc[sorted(range(len(rows)), key=lambda at: layer_order(rows["layer"].iloc[at]))]
    rows = rows.reset_index(drop=True)
    checkpoint = called or str(rows["checkpoint"].iloc[-1])
    inputs = Inputs(store)
    heads = [_head(store, address) for address in rows["head"]]
    layers = [
        _layer(inputs, row, head, n)
        for row, head in zip(rows.to_dict("records"), heads, strict=True)
    ]
    columns = ("top_si", "top_standard_error", "invariant_variance_share")
    chart = by_layer(rows["layer"].tolist(), *(rows[column].tolist() for column in columns))
    newest = max(heads, key=lambda head: (str(head.record["created"]), head.key))
    html = _render(
        "report.html",
        checkpoint=checkpoint,
        layers=layers,
        top=layers[int(rows["top_si"].fillna(-1.0).argmax())],
        last=layers[-1],
        chart=_drawn(chart),
        identity=_identity(store, rows["weights"].iloc[0]),
        subject=newest.recipe["subject"],
        measured=newest.facts.get("measured"),
        comparison=rows["comparison"].iloc[0],
        suppression=rows["suppression"].iloc[0],
        made=str(newest.record["created"]),
        made_by=_versions(newest.record["made_by"]),
        index=INDEX if listed else None,
    )
    return Page(name, checkpoint, html)


def publish_pages(store: Store, pages: Iterable[Page]) -> list[Location]:
    """Write pages below ``reports/``, and the list of all pages that are there.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    folder = store.location / REPORTS
    found = []
    for page in pages:
        place = folder / page.name
        place.write_bytes(page.html)
        found.append(place)
    # Two runs that end together: the later one must list the other's page as well.
    with replacing(store):
        there = set(folder.names())
        table = read_leaderboard(store)
        listed = table[table["page"].isin(there)].sort_values(["made", "key"])
        (folder / INDEX).write_bytes(_render("index.html", groups=_groups(listed)))
    return found


def _layer(inputs: Inputs, row: Mapping[Any, Any], head: Product, n: int) -> dict[str, Any]:
    """Return what a page says of one layer."""
    table = scores_of(head)
    top = best(table, n)
    maps, missing = [], ""
    try:
        scores = inputs.get("scores", head.recipe["scores"])
        real, synthetic = (inputs.all("responses", scores.recipe[d]) for d in ("real", "synthetic"))
        found = response_maps(real, synthetic, top["component"].tolist())
        maps = [[_data_url(map_png(rates)) for rates in domains] for _, *domains in found]
    except StoreError as error:
        missing = str(error)
        emit(Notice(f"{row['layer']}: without pictures, for {error}"))
    return {
        **{str(name): value for name, value in row.items()},
        "chart": _drawn(by_rank(table)),
        "components": [
            {**component, "maps": maps[place] if maps else None}
            for place, component in enumerate(top.to_dict("records"))
        ],
        "missing": missing,
    }


def _head(store: Store, address: str) -> Product:
    head = read_product(store.location / address)
    if head is None:
        raise MissingProductError(f"{address} was deleted meanwhile; run the same command again.")
    return head


def _identity(store: Store, weights: str) -> dict[str, Any]:
    """Return what is known of the checkpoint with a digest; nothing where its identity is gone."""
    from soapworks.tasks.inputs.checkpoint import read_identity

    mine = [one for one in store.products("checkpoints") if one.facts.get("digest") == weights]
    if not mine:
        return {}
    newest = max(mine, key=lambda one: (str(one.record["created"]), one.key))
    try:
        return vars(read_identity(newest))
    except StoreError:
        return {}


def _versions(made_by: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {made_by[name]}" for name in sorted(made_by) if name != "host")


def _groups(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the pages of every comparison with what the list says of them, the best first."""
    groups = []
    for rows in comparisons(table.sort_values([*COMPARABLE, "made", "key"])):
        pages = []
        for name, some in rows.groupby("page", sort=True):
            top = some.sort_values("top_si", kind="stable", na_position="first").iloc[-1]
            pages.append({"name": name, "n_layers": some["layer"].nunique(), **top.to_dict()})
        pages.sort(key=lambda page: (-np.nan_to_num(page["top_si"]), page["name"]))
        groups.append({"first": rows.iloc[0].to_dict(), "pages": pages})
    return sorted(groups, key=lambda group: not group["first"]["comparison"])


def _drawn(svg: str) -> Markup:
    """Return a chart as it stands: matplotlib has escaped its labels."""
    return Markup(svg)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _render(template: str, **content: Any) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "percent": _percent}
    return environment.get_template(template).render(content).encode()


def _shown(value: Any) -> Any:
    """Return a value as the page shows it: names without what a browser would obey."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _figure(value: Any, digits: int = 3) -> str:
    """Return a number for people; a dash for what is not known."""
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
