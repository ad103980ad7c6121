"""Which rows of a leaderboard are shown, in which order."""

from pathlib import Path

import pandas as pd
import pytest

from soapworks.storage_schemas.store import Store
from soapworks.tasks.reports.leaderboard import read_leaderboard
from soapworks.tasks.reports.ranking import comparisons, filter_rows, layer_order, matrix
from tests.tasks.scored import MEASURED, digit, publish_checkpoint, publish_head

SCORES = {
    ("mae.pt", "blocks.2"): (0.80, 9, 0.10),
    ("mae.pt", "blocks.10"): (0.90, 3, 0.40),
    ("mae.pt", "norm"): (0.85, 4, 0.30),
    ("dino.pt", "blocks.2"): (0.95, 2, 0.20),
    ("dino.pt", "norm"): (0.70, 0, 0.00),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    store = Store(tmp_path_factory.mktemp("standings") / "store")
    models = {"mae.pt": 1, "dino.pt": 2}
    for name, model in models.items():
        publish_checkpoint(store, model, name)
    for number, ((name, layer), (si, n, share)) in enumerate(SCORES.items()):
        publish_head(
            store,
            models[name],
            layer,
            scores=50 + number,
            top_si=si,
            n_invariant=n,
            invariant_variance_share=share,
        )
    return read_leaderboard(store)


def names(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["checkpoint"], table["layer"], strict=True))


def test_models_by_their_best_layers_from_the_first(table: pd.DataFrame) -> None:
    assert names(filter_rows(table)) == [
        ("dino.pt", "blocks.2"),
        ("dino.pt", "norm"),
        ("mae.pt", "blocks.2"),
        ("mae.pt", "blocks.10"),
        ("mae.pt", "norm"),
    ]


@pytest.mark.parametrize(("order", "column"), [("top-si", 0), ("above", 1), ("variance", 2)])
def test_by_a_figure(table: pd.DataFrame, order: str, column: int) -> None:
    wanted = sorted(SCORES, key=lambda name: -SCORES[name][column])
    assert names(filter_rows(table, order=order)) == wanted


def test_the_best_layer_of_every_model(table: pd.DataFrame) -> None:
    best = [("dino.pt", "blocks.2"), ("mae.pt", "blocks.10")]
    assert names(filter_rows(table, best=True)) == best
    most = [("mae.pt", "blocks.2"), ("dino.pt", "blocks.2")]
    assert names(filter_rows(table, best=True, order="above")) == most


def test_by_name_and_pattern(table: pd.DataFrame) -> None:
    assert {model for model, _ in names(filter_rows(table, models=["din"]))} == {"dino.pt"}
    assert {model for model, _ in names(filter_rows(table, models=["m*.pt"]))} == {"mae.pt"}
    assert len(filter_rows(table, models=["vit_tiny"])) == len(SCORES)
    assert {layer for _, layer in names(filter_rows(table, layers=["blocks.*"]))} == {
        *("blocks.2", "blocks.10")
    }
    assert {layer for _, layer in names(filter_rows(table, layers=["block"]))} == set()


def test_the_first_rows(table: pd.DataFrame) -> None:
    assert names(filter_rows(table, order="top-si", top=2)) == [
        *(("dino.pt", "blocks.2"), ("mae.pt", "blocks.10"))
    ]


def test_models_by_layers(table: pd.DataFrame) -> None:
    wide = matrix(filter_rows(table), "n_invariant")
    assert list(wide.columns) == ["checkpoint", "blocks.2", "blocks.10", "norm"]
    assert list(wide["checkpoint"]) == ["dino.pt", "mae.pt"]
    assert wide["blocks.2"].tolist() == [2, 9]
    assert pd.isna(wide["blocks.10"].iloc[0])


def test_branches_stand_before_their_block() -> None:
    layers = ["norm", "blocks.10", "blocks.2", "blocks.2.mlp", "blocks.2.attn.k"]
    assert sorted(layers, key=layer_order) == [
        *("blocks.2.attn.k", "blocks.2.mlp", "blocks.2", "blocks.10", "norm")
    ]


def test_of_several_heads_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for mu in (1, 2, 3):
        publish_head(store, mu=mu)
    table = read_leaderboard(store)
    table["made"] = [f"2026-01-0{3 if mu == 'mu 2' else 1}" for mu in table["suppression"]]
    assert list(filter_rows(table)["suppression"]) == ["mu 2"]
    assert len(filter_rows(table, all_heads=True)) == 3


def test_what_does_not_compare_is_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish_head(store, 1, top_si=0.8)
    publish_head(store, 2, top_si=0.9, measured={**MEASURED, "images": "2" * 64})
    publish_head(store, 3, top_si=0.7)
    publish_head(store, 4, top_si=0.99, measured=None)
    table = read_leaderboard(store)
    newest = {digit(1): "2026-02-01", digit(2): "2026-03-01"}
    table["made"] = [newest.get(weights, "2026-01-01") for weights in table["weights"]]
    groups = comparisons(filter_rows(table, order="top-si"))
    models = [[int(weights, 16) for weights in rows["weights"]] for rows in groups]
    assert models == [[2], [1, 3], [4]]
    chosen = filter_rows(table, comparison=groups[1]["comparison"].iloc[0][:6])
    assert sorted(int(weights, 16) for weights in chosen["weights"]) == [1, 3]
