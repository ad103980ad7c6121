"""``soapworks leaderboard`` as its users meet it."""

import json
from pathlib import Path

import pandas as pd
import pytest

from soapworks.flows.cli import main
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.store import Store
from tests.tasks.scored import MEASURED, publish_checkpoint, publish_head

HOSTILE = "[bold]evil[/bold]\x1b[2J\nname"


@pytest.fixture
def place(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    publish_checkpoint(store, 1, "mae.pt")
    publish_checkpoint(store, 2, HOSTILE)
    publish_head(store, 1, top_si=0.8125)
    publish_head(store, 1, "blocks.0", scores=5, top_standard_error=None)
    publish_head(store, 2, top_si=0.9, measured={**MEASURED, "images": "2" * 64})
    return store


def said(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str) -> str:
    main(["leaderboard", "--store", store.url, "--quiet", *arguments])
    return capsys.readouterr().out


def test_a_table_per_comparison(capsys, place: Store) -> None:
    out = said(capsys, place, "--sort", "top-si")
    assert out.count("comparison ") == 2
    assert out.index("0.9 ") < out.index("0.8125")
    assert "–" in out  # the error that nobody knows


def test_names_are_no_markup_and_no_commands(capsys, place: Store) -> None:
    out = said(capsys, place)
    assert r"[bold]evil[/bold]\x1b[2J\nname" in out
    assert "\x1b" not in out


def test_models_by_layers(capsys, place: Store) -> None:
    out = said(capsys, place, "--matrix", "top-si", "--model", "mae.pt")
    (line,) = [line for line in out.splitlines() if "mae.pt" in line]
    assert [part.strip() for part in line.split("│")[1:-1]] == ["mae.pt", "0.9", "0.8125"]


def test_json_has_every_column(capsys, place: Store) -> None:
    rows = json.loads(said(capsys, place, "--json", "--layer", "blocks.*"))
    (row,) = rows
    assert row["top_standard_error"] is None
    assert row["cached"] is None
    assert row["head"] == f"{place.url}/heads/vit_tiny-blocks.0-{row['key'][:12]}"


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_a_file_whose_ending_says_how(capsys, place: Store, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"table.{ending}"
    assert said(capsys, place, "--output", str(file), "--layer", "norm") == ""
    read = {"parquet": pd.read_parquet, "csv": pd.read_csv, "json": pd.read_json}[ending]
    table = read(file)
    assert sorted(table["top_si"]) == [0.8125, 0.9]
    assert all(address.startswith(place.url) for address in table["head"])


def test_a_file_of_another_ending_is_refused(capsys, place: Store, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as leaving:
        said(capsys, place, "--output", str(tmp_path / "table.xlsx"))
    assert leaving.value.code == 1
    assert ".parquet" in capsys.readouterr().err


def test_it_is_kept_in_the_store(capsys, place: Store) -> None:
    said(capsys, place)
    assert len(pd.read_parquet(place.url + "/leaderboard.parquet")) == 3


def test_a_store_that_cannot_be_written_is_shown(
    capsys, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soapworks.errors import StoreError

    def refuse(self: Location, *_: object, **__: object) -> None:
        raise StoreError(f"{self} cannot be written: permission denied.")

    monkeypatch.setattr(Location, "create", refuse)
    monkeypatch.setattr(Location, "write_bytes", refuse)
    main(["leaderboard", "--store", place.url])
    captured = capsys.readouterr()
    assert "0.8125" in captured.out
    assert "permission denied" in captured.err


def test_an_empty_store(capsys, tmp_path: Path) -> None:
    assert "no scores" in said(capsys, Store(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
