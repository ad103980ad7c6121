"""The leaderboard of a store: a row per head, made from the heads' records.

The table that is kept (``leaderboard.parquet``) saves reading records again, and remembers what no
record tells: what the last run found there, and what it called the checkpoint. It may be deleted.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd

from soapworks.errors import DamagedProductError, MissingProductError, StoreError
from soapworks.storage_schemas.layout.layer_summary import NO_SCORE, LayerSummary, scores_nothing
from soapworks.storage_schemas.layout.names import slug
from soapworks.storage_schemas.layout.recipes import HeadRecipe
from soapworks.storage_schemas.layout.tables import (
    LEADERBOARD,
    LEADERBOARD_TABLE,
    read_table,
    write_table,
)
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.leasing.leases import Lease
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import Product, read_product
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice, Waiting, emit
from soapworks.tasks.executors.threads import compute_each
from soapworks.tasks.stages.conditions import comparison

REPORTS = "reports"
"""Folder of what is made for people to read; its lease is held while the table is replaced."""

MAX_BYTES = 1 << 28
"""Length above which a kept table is not read, bytes."""

READERS = 8
"""Records read at once: from a bucket one waits for answers."""

DEFAULT_TAU = HeadRecipe.model_fields["tau"].default

COLUMNS = [column.name for column in LEADERBOARD]


def read_leaderboard(store: Store, *, rebuild: bool = False) -> pd.DataFrame:
    """Return the leaderboard as the store's products make it; writes nothing.

    Parameters
    ----------
    store
        The store.
    rebuild
        Read all records again, whatever table is kept.

    Returns
    -------
    DataFrame
        The columns of ``LEADERBOARD``, a row per published head, in the order of their addresses.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    return _brought_up_to_date(store, _empty() if rebuild else _kept(store))


def update_leaderboard(
    store: Store, summaries: Sequence[LayerSummary] = (), *, rebuild: bool = False
) -> Location:
    """Replace the table that is kept by what the store's products make it now.

    Any number of runs may do so at the same time: one after the other, and none loses a row.

    Parameters
    ----------
    store
        The store.
    summaries
        Results of a run, for what it found there and what it called its checkpoints.
    rebuild
        Read all records again.

    Returns
    -------
    Location
        The table's file.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    place = store.location / LEADERBOARD_TABLE
    with replacing(store) as lease:
        table = read_leaderboard(store, rebuild=rebuild)
        for summary in summaries:
            found = table["key"] == summary.key
            table.loc[found, ["checkpoint", "cached"]] = summary.checkpoint, summary.cached
        lease.check()
        place.write_bytes(write_table(table, LEADERBOARD))
    return place


def kept_is_current(store: Store, table: pd.DataFrame) -> bool:
    """Return whether the table that is kept has exactly a leaderboard's heads."""
    return set(_kept(store)["head"]) == set(table["head"])


def replacing(store: Store) -> AbstractContextManager[Lease]:
    """Wait until nobody else replaces the table, or another file of which there is one."""
    return leases.held(
        store.location / REPORTS,
        store.lease_seconds,
        patience=math.inf,
        waiting=lambda: emit(Waiting("another process is writing the leaderboard")),
    )


def _brought_up_to_date(store: Store, kept: pd.DataFrame) -> pd.DataFrame:
    places = store.addresses("heads")
    known = set(kept["head"])
    new = [place for place in places if f"heads/{place.name}" not in known]
    rows = [row for row in compute_each(_row, new, workers=READERS) if row]
    there = {f"heads/{place.name}" for place in places}
    table = kept[kept["head"].isin(there)]
    if rows:
        names = _names(store)
        for row in rows:
            row["checkpoint"] = names.get(row["weights"], row["architecture"])
        table = pd.concat([table, _typed(rows)]) if len(table) else _typed(rows)
    return table.sort_values("head", ignore_index=True)


def _row(place: Location) -> dict[str, Any] | None:
    """Return what one head's record tells; None where no head is published."""
    try:
        product = read_product(place)
        return None if product is None else _told(product)
    except (StoreError, LookupError, TypeError, ValueError) as error:
        # A record that was tampered with must not take the others' rows away.
        emit(Notice(f"heads/{place.name} is not on the leaderboard: {error}"))
        return None


def _told(product: Product) -> dict[str, Any]:
    facts, recipe = product.facts, product.recipe
    measured = facts.get("measured") or {}
    summary = LayerSummary.from_facts(
        facts, layer=recipe["subject"]["layer"], key=product.key, head=product.address
    )
    return {
        **summary.model_dump(),
        "suppression": suppression(recipe),
        "comparison": comparison(measured) if measured else "",
        "images": measured.get("images", ""),
        "preprocessing": measured.get("preprocessing", ""),
        "noise": "{spec} {spec_version}, seed {noise_seed}".format(**measured) if measured else "",
        "seen_at": _seen_at(measured) if measured else "",
        "page": page_name(recipe, measured),
        "made": product.record["created"],
        "architecture": recipe["subject"]["architecture"],
        "weights": recipe["subject"]["weights"],
        "scores": recipe["scores"],
    }


def page_name(recipe: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """Return the name of the page that shows a head together with the model's other layers.

    Parameters
    ----------
    recipe
        The head's recipe.
    measured
        How its scores were measured; heads are on one page where all of that agrees.
    """
    subject = {name: value for name, value in recipe["subject"].items() if name != "layer"}
    how = [recipe[name] for name in ("weights", "mu", "tau", "components", "centred")]
    same = json.dumps([subject, measured, how], sort_keys=True)
    words = slug(subject["architecture"], keep="_.", fill="_")[:80]
    return f"{words}-{hashlib.sha256(same.encode()).hexdigest()[:12]}.html"


def suppression(recipe: Mapping[str, Any]) -> str:
    """Return how a head's weights were made, in words; ``recipe`` is the head's."""
    if recipe["weights"] == "sigmoid":
        mu = recipe["mu"]
        words = f"mu {mu if isinstance(mu, str) else format(mu, 'g')}"
        if recipe["tau"] != DEFAULT_TAU:
            words += f", tau {recipe['tau']:g}"
    elif recipe["weights"] == "selected":
        words = f"components {', '.join(str(component) for component in recipe['components'])}"
    else:
        words = str(recipe["weights"])
    return words + (", centred" if recipe["centred"] else "")


def _seen_at(measured: Mapping[str, Any]) -> str:
    height, width = measured["image_size"]
    side = f"{height}" if height == width else f"{height} x {width}"
    return f"{side} px, {measured['precision']}/{measured['dtype']}"


def _names(store: Store) -> dict[str, str]:
    """Return digest -> identifier of the checkpoints, as the newest identity calls them."""
    found = sorted(store.products("checkpoints"), key=lambda one: str(one.record["created"]))
    return {str(one.facts.get("digest")): str(one.facts.get("identifier")) for one in found}


def _kept(store: Store) -> pd.DataFrame:
    """Return the table that is kept; an empty one where there is none that can be read."""
    place = store.location / LEADERBOARD_TABLE
    try:
        data = place.read_bytes(limit=MAX_BYTES)
        if len(data) > MAX_BYTES:
            raise DamagedProductError(f"it is longer than {MAX_BYTES >> 20} MiB")
        table = _typed(read_table(data, "the leaderboard", COLUMNS))
        lost = scores_nothing(table["n_invariant"], table["invariant_variance_share"])
        table.loc[lost, list(NO_SCORE)] = list(NO_SCORE.values())
        return table
    except MissingProductError:
        return _empty()
    # What pyarrow raises for bytes that are no table is not one family.
    except Exception as error:
        if isinstance(error, StoreError) and not isinstance(error, DamagedProductError):
            raise
        emit(Notice(f"{place} cannot be read ({error}) and is made again from the heads"))
        return _empty()


def _empty() -> pd.DataFrame:
    return _typed([])


def _typed(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), columns=COLUMNS)
    return table.astype({column.name: column.dtype for column in LEADERBOARD})
