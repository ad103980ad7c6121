"""Scores against steps: the tables' numbers, and pictures that show them."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.reports.charts import curves as draw
from soapworks.tasks.watch import curves as training_curve
from soapworks.tasks.watch.curves import COLUMNS, are_behind, tabulate, update_curves
from soapworks.tasks.watch.rules import CheckpointState
from tests.small import write_photographs
from tests.tasks.watchers import Clock, Watcher, make_watch

EARLY = datetime(2026, 11, 24, tzinfo=UTC)


def state(path: str, *sis: float | None, late: int = 0, **more: Any) -> CheckpointState:
    scores = tuple(
        LayerSummary(
            layer=f"blocks.{layer}",
            top_si=si,
            top_standard_error=more.get("error", 0.01),
            top_component=1,
            n_invariant=more.get("n_invariant", 3),
            invariant_variance_share=0.25,
            n_components=24,
            n_real=9,
            n_synthetic=6,
            key=f"{layer:064x}",
        )
        for layer, si in enumerate(sis)
    )
    since = EARLY + timedelta(minutes=late)
    return CheckpointState(path=path, fingerprint="f", status="scored", since=since, scores=scores)


def tables(*states: CheckpointState) -> dict[str, pd.DataFrame]:
    return tabulate({one.path: one for one in states})


def table(n: int, n_layers: int, *, unit: str = "step", **more: Any) -> pd.DataFrame:
    found = tables(
        *(state(f"{unit}_{i + 1}.pt", *([0.75 + i / 300] * n_layers), **more) for i in range(n))
    )
    return found[f"{unit}_*"]


def test_a_row_per_step_and_layer() -> None:
    (run,) = tables(state("step_20.pt", 0.8, 0.9), state("step_3.pt", 0.7, 0.6)).values()
    assert list(run.columns) == list(COLUMNS)
    assert list(run["step"]) == [3, 3, 20, 20]
    assert list(run["layer"]) == ["blocks.0", "blocks.1"] * 2
    assert list(run["top_si"]) == [0.7, 0.6, 0.8, 0.9]
    assert set(run["invariant_variance_share"]) == {0.25}
    assert set(run["unit"]) == {"step"}


def test_runs_are_apart_and_what_is_no_step_is_in_none() -> None:
    found = tables(
        *(state(name, 0.8) for name in ("mae/step_1.pt", "dino/step_1.pt", "epoch_1.pt")),
        state("last.pt", 0.8),
        state("step_9.pt"),
    )
    assert set(found) == {"mae/step_*", "dino/step_*", "epoch_*"}


def test_of_one_step_in_two_formats_the_later_counts() -> None:
    first, second = state("step_1.pt", 0.7, late=1), state("step_1.safetensors", 0.8)
    (run,) = tables(first, second).values()
    assert list(run["top_si"]) == [0.7]


def test_a_layer_without_a_score_is_a_gap_and_leads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (run,) = tables(state("step_1.pt", 0.8, None), state("step_2.pt", 0.9, None)).values()
    assert list(run["top_si"].isna()) == [False, True] * 2
    assert run.loc[run["top_si"].idxmax(), "layer"] == "blocks.0"
    for kind in ("png", "svg"):
        assert draw(run, title="x", kind=kind)
    (nothing,) = tables(state("step_1.pt", None), state("step_2.pt", None)).values()
    assert draw(nothing, title="x", kind="png")


def test_scores_of_a_content_that_was_replaced_by_an_unusable_one_leave_the_curve() -> None:
    old = state("step_1.pt", 0.9)
    collapsed = old.model_copy(update={"status": "failed", "permanent": True})
    assert tables(collapsed, state("step_2.pt", 0.8))["step_*"]["step"].tolist() == [2]
    passing = old.model_copy(update={"status": "failed", "permanent": False})
    assert tables(passing, state("step_2.pt", 0.8))["step_*"]["step"].tolist() == [1, 2]


def test_nothing_scored_is_no_curve() -> None:
    assert tables() == {}


@pytest.mark.parametrize(("n", "n_layers"), [(1, 1), (1, 13), (2, 2), (50, 13), (3, 40)])
def test_a_picture_whatever_the_number_of_points(n: int, n_layers: int) -> None:
    data = draw(table(n, n_layers), title="run/step_$1_*", kind="png")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.size == (900, 900)
    assert len(image.getcolors(1 << 20) or []) > 20
    assert draw(table(n, n_layers), title="run/step_$1_*", kind="png") == data


def test_what_the_picture_says() -> None:
    svg = draw(table(4, 2, unit="epoch"), title="mae/epoch_*", kind="svg").decode()
    assert svg == draw(table(4, 2, unit="epoch"), title="mae/epoch_*", kind="svg").decode()
    for words in (
        "mae/epoch_*",
        "training epoch",
        "highest SI of a component",
        "above 0.75",
        "variance in",
        "± 2 standard errors",
        "9 real and 6 synthetic images",
        "blocks.0",
        "blocks.1",
        "uninformative",
    ):
        assert f"<!-- {words}" in svg or words in svg, words


def test_the_lines_are_the_tables_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **more: Any) -> None:
        drawn.append(self)
        original(self, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    found = tables(
        state("step_10.pt", 0.71, 0.8, n_invariant=0),
        state("step_20.pt", 0.9, 0.95, error=0.02),
    )["step_*"]
    draw(found, title="x", kind="png")
    top, counts, shares = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in top.lines}
    assert lines["blocks.0"] == [[10, 0.71], [20, 0.9]]
    assert lines["blocks.1"] == [[10, 0.8], [20, 0.95]]
    band = top.collections[1].get_datalim(top.transData)
    assert (band.y0, band.y1) == pytest.approx((0.8 - 0.02, 0.95 + 0.04))
    assert counts.lines[0].get_ydata().tolist() == [0, 3]
    assert shares.lines[1].get_ydata().tolist() == [0.25, 0.25]


def test_without_errors_there_is_no_band() -> None:
    assert draw(table(2, 1, error=None), title="x", kind="png")


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    write_photographs(tmp_path / "photographs", 1)
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 20):
        (tmp_path / f"checkpoints/step_{step}.pt").write_text("x" * step)
    return Watcher(make_watch(tmp_path, stable_seconds=0), Clock())


def test_files_in_the_store(watcher: Watcher) -> None:
    watcher.round()
    assert are_behind(watcher.watch)
    (curve,) = update_curves(watcher.watch)
    assert curve.run == "step_*"
    folder = watcher.watch.place / "curves"
    assert curve.picture.parent == folder
    assert sorted(folder.names()) == sorted(
        ["drawn.json", curve.csv.name, curve.parquet.name, curve.picture.name]
    )
    assert Image.open(io.BytesIO(curve.picture.read_bytes())).format == "PNG"
    parquet = pd.read_parquet(io.BytesIO(curve.parquet.read_bytes()))
    pd.testing.assert_frame_equal(parquet, curve.table)
    assert list(pd.read_csv(io.BytesIO(curve.csv.read_bytes()))["n_invariant"]) == [1, 1, 20, 20]


def test_drawn_once_and_again_with_newer_scores(watcher: Watcher, tmp_path: Path) -> None:
    watcher.round()
    assert len(update_curves(watcher.watch)) == 1
    assert not are_behind(watcher.watch)
    assert update_curves(watcher.watch) == []
    (tmp_path / "checkpoints/step_300.pt").write_text("y")
    watcher.round()
    (curve,) = update_curves(watcher.watch)
    assert set(curve.table["step"]) == {1, 20, 300}


def test_checkpoints_that_were_deleted_stay_in_the_curve(watcher: Watcher, tmp_path: Path) -> None:
    watcher.round()
    (tmp_path / "checkpoints/step_1.pt").unlink()
    assert watcher.round() == []
    (curve,) = update_curves(watcher.watch)
    assert set(curve.table["step"]) == {1, 20}


def test_damaged_notes_are_drawn_anew(watcher: Watcher) -> None:
    watcher.round()
    update_curves(watcher.watch)
    (watcher.watch.place / "curves/drawn.json").write_bytes(b"[1")
    assert len(update_curves(watcher.watch)) == 1


def test_while_another_process_draws_nothing_is_lost(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.round()
    monkeypatch.setattr(training_curve, "_WAIT_SECONDS", 0.0)
    folder: Location = watcher.watch.place / "curves"
    with leases.held(folder, 60.0):
        assert update_curves(watcher.watch) == []
    assert are_behind(watcher.watch)
    assert len(update_curves(watcher.watch)) == 1


def test_an_svg_when_asked(tmp_path: Path, watcher: Watcher) -> None:
    svg = make_watch(tmp_path, stable_seconds=0, chart="svg")
    Watcher(svg, Clock()).round()
    (curve,) = update_curves(svg)
    assert curve.picture.name.endswith(".svg")
    assert curve.picture.read_bytes().startswith(b"<?xml")
