"""The leaderboard of a store: what the heads' records say, and nobody's row is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from soapworks.errors import StoreError
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.layout.tables import (
    LEADERBOARD,
    LEADERBOARD_TABLE,
    write_table,
)
from soapworks.storage_schemas.publishing.records import encode_record
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Event, Notice
from soapworks.tasks.maintenance.gc import choose, clean
from soapworks.tasks.maintenance.retention import Retention
from soapworks.tasks.maintenance.verify import verify
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.reports.leaderboard import read_leaderboard, update_leaderboard
from soapworks.tasks.reports.ranking import filter_rows
from tests.children import CONTEXT
from tests.tasks.conftest import run_stages
from tests.tasks.scored import (
    FACTS,
    MEASURED,
    digit,
    path_of,
    publish_checkpoint,
    publish_head,
    summary_of,
    update_often,
)


@pytest.fixture
def place(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "by_hand")


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def test_an_empty_store(place: Store) -> None:
    table = read_leaderboard(place)
    assert list(table.columns) == [column.name for column in LEADERBOARD]
    assert len(table) == 0


def test_it_says_what_the_records_say(place: Store) -> None:
    publish_checkpoint(place, 1, "my_model.pt")
    head = publish_head(place, 1, "blocks.3", mu=4, top_si=0.875)
    (row,) = rows_of(read_leaderboard(place))
    assert {name: row[name] for name in FACTS} == {**FACTS, "top_si": 0.875}
    named = (row["checkpoint"], row["layer"], row["suppression"])
    assert named == ("my_model.pt", "blocks.3", "mu 4")
    assert (row["weights"], row["scores"], row["key"]) == (digit(1), digit(1), head.key)
    assert (row["head"], row["made"]) == (head.address, head.record["created"])
    assert (row["images"], row["noise"]) == ("1" * 64, "authors 1, seed 0")
    assert row["seen_at"] == "32 px, float32/float16"
    assert row["cached"] is None


def test_it_says_what_a_run_came_to(request_of: Callable[..., ScoreRequest]) -> None:
    request = request_of()
    summary = run_stages(request)
    store = request.store()
    update_leaderboard(store, [LayerSummary(**row) for row in summary])
    table = read_leaderboard(store).set_index("key")
    assert set(table.index) == {row["key"] for row in summary}
    for row in summary:
        found = table.loc[row["key"]]
        for name in ("checkpoint", "layer", "top_si", "top_component", "n_invariant", "cached"):
            assert found[name] == row[name], name
        assert f"{store.url}/{found['head']}" == row["head"]
    assert table["comparison"].nunique() == 1


COLLAPSED = {"top_si": 1.0, "n_invariant": 24, "invariant_variance_share": 0.0}
"""Facts that version 0.1 stored of a layer whose features are all equal."""


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("order", ["model", "top-si", "above", "variance", "error"])
def test_a_layer_without_a_score_never_leads(place: Store, order: str, kept: bool) -> None:
    publish_head(place, 1, **COLLAPSED, top_standard_error=0.0)
    publish_head(place, 2, top_si=0.8)
    table = read_leaderboard(place)
    if kept:  # as version 0.1 kept it
        table.loc[table["weights"] == digit(1), list(COLLAPSED)] = list(COLLAPSED.values())
        (place.location / LEADERBOARD_TABLE).write_bytes(write_table(table, LEADERBOARD))
        table = read_leaderboard(place)
    first, last = rows_of(filter_rows(table, order=order))
    assert (first["weights"], last["weights"]) == (digit(2), digit(1))
    assert last["n_invariant"] == 0
    assert pd.isna(last["top_si"])


def test_an_error_that_nobody_knows(place: Store) -> None:
    publish_head(place, top_standard_error=None)
    assert read_leaderboard(place)["top_standard_error"].isna().all()


def test_features_that_did_not_vary_in_an_old_store_do_not_lead(place: Store) -> None:
    # Version 0.1 scored all-zero weights so.
    collapsed: dict[str, Any] = {"n_invariant": 24, "invariant_variance_share": 0.0, "top_si": 1.0}
    publish_head(place, 1, **collapsed)
    publish_head(place, 2)
    rows = filter_rows(read_leaderboard(place), order="top-si")
    assert rows["top_si"].tolist()[0] == FACTS["top_si"]
    assert rows["top_si"].isna().tolist() == [False, True]
    assert rows["n_invariant"].tolist() == [3, 0]


def test_what_a_run_said_is_remembered(place: Store) -> None:
    publish_checkpoint(place, 1, "old_name.pt")
    head, other = publish_head(place, 1), publish_head(place, 1, "blocks.0")
    update_leaderboard(place, [summary_of(head, "new_name.pt", cached=True)])
    update_leaderboard(place)
    told = {
        row["key"]: (row["checkpoint"], row["cached"]) for row in rows_of(read_leaderboard(place))
    }
    assert told == {head.key: ("new_name.pt", True), other.key: ("old_name.pt", None)}


def test_a_head_that_is_deleted_leaves(place: Store) -> None:
    head, other = publish_head(place, 1), publish_head(place, 2)
    update_leaderboard(place)
    place.delete(head)
    assert list(read_leaderboard(place)["key"]) == [other.key]


def test_records_are_not_read_again(place: Store) -> None:
    head = publish_head(place, 1)
    update_leaderboard(place)
    record = path_of(head.location / "record.json")
    record.write_bytes(b"{}")
    assert list(read_leaderboard(place)["key"]) == [head.key]
    assert len(read_leaderboard(place, rebuild=True)) == 0


def test_a_kept_table_that_cannot_be_read_is_made_again(place: Store, events: list[Event]) -> None:
    head = publish_head(place, 1)
    file = update_leaderboard(place)
    for damage in (b"no table", path_of(file).read_bytes()[:-9], b""):
        path_of(file).write_bytes(damage)
        assert list(read_leaderboard(place)["key"]) == [head.key]
        assert isinstance(events[-1], Notice)
    assert update_leaderboard(place) == file
    assert list(pd.read_parquet(file.url)["key"]) == [head.key]


def test_a_record_with_nonsense_takes_no_other_row_away(place: Store, events: list[Event]) -> None:
    head, bad = publish_head(place, 1), publish_head(place, 2)
    record = {**bad.record, "facts": {**bad.facts, "top_si": "very high"}}
    path_of(bad.location / "record.json").write_bytes(encode_record(record))
    assert list(read_leaderboard(place)["key"]) == [head.key]
    assert any(bad.location.name in e.message for e in events if isinstance(e, Notice))


def test_of_heads_made_by_others_that_say_less(place: Store) -> None:
    publish_head(place, 1, measured=None)
    (row,) = rows_of(read_leaderboard(place))
    assert (row["comparison"], row["images"], row["seen_at"]) == ("", "", "")


def test_other_images_have_another_comparison(place: Store) -> None:
    publish_head(place, 1)
    publish_head(place, 2)
    publish_head(place, 3, measured={**MEASURED, "images": "2" * 64})
    table = read_leaderboard(place).set_index("weights")["comparison"]
    assert table[digit(1)] == table[digit(2)] != table[digit(3)]


def test_two_runs_at_once_lose_nothing(place: Store) -> None:
    runs = [CONTEXT.Process(target=update_often, args=(place.url, n, 6)) for n in (1, 2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    kept = pd.read_parquet(place.url + "/leaderboard.parquet")
    told = sorted(zip(kept["checkpoint"], kept["layer"], kept["cached"], strict=True))
    assert told == [
        (f"model {model}", f"blocks.{number}", bool(number % 2))
        for model in (1, 2)
        for number in range(6)
    ]


def test_a_dead_writer_delays_nobody_for_long(place: Store) -> None:
    publish_head(place, 1)
    (place.location / "reports" / "lease-000004.json").write_bytes(
        b'{"format": 1, "token": "dead", "seconds": 0.2, "host": "elsewhere", "pid": 1}'
    )
    update_leaderboard(place)
    assert len(pd.read_parquet(place.url + "/leaderboard.parquet")) == 1


def test_what_looks_after_products_leaves_it_alone(store: Store) -> None:
    before = (store.kinds(), {product.key for product in store.products()})
    file = update_leaderboard(store)
    (store.location / "reports" / "one.html").write_bytes(b"<html>")
    assert (store.kinds(), {p.key for p in store.products()}) == before
    found = verify(store, workers=1)
    assert (found.damaged, found.unnamed, found.later) == ((), (), ())
    chosen = choose(store, Retention(keep_features=0, abandoned=True, unreferenced=True))
    clean(store, chosen)
    assert file.exists()
    assert (store.location / "reports" / "one.html").exists()


def test_nothing_is_written_behind_a_linked_folder_of_reports(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (Path(store.url) / "reports").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="reports is a symbolic link"):
        update_leaderboard(store)
    assert list((tmp_path / "outside").iterdir()) == []
