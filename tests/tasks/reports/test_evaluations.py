"""Rows of evaluations: each head beside the raw features that were judged alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soapworks.evaluation import compare
from soapworks.storage_schemas.layout.evaluations import (
    VALUES_TABLE,
    EvaluationRecipe,
    write_values,
)
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Event, Notice
from soapworks.tasks.reports.evaluations import evaluation_rows
from tests.storage_schemas.layout.test_evaluations import recipe
from tests.tasks.scored import digit, publish_checkpoint, publish_head, subject

N = 30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def publish(store: Store, wanted: EvaluationRecipe, values: np.ndarray) -> Product:
    table = pd.DataFrame(
        {
            "image": np.arange(len(values)),
            "group": [f"scene {number // 2}" for number in range(len(values))],
            "measure": "iou",
            "value": values,
        }
    )
    attempt = store.claim(wanted)
    assert isinstance(attempt, Attempt)
    with attempt:
        attempt.writer.write(VALUES_TABLE, write_values(table))
        return attempt.publish({"n_rows": len(table), "folder": "/photographs"})


def test_a_row_says_what_a_head_changes(store: Store) -> None:
    rng = np.random.default_rng(0)
    publish_checkpoint(store, 1, "mae.safetensors")
    expected = {}
    for layer in ("norm", "blocks.10", "blocks.2"):
        raw = rng.random(N)
        publish(store, recipe(subject=subject(1, layer)), raw)
        head = publish_head(store, 1, layer, scores=len(layer))
        values = raw + rng.normal(0.2, 0.1, N)
        publish(store, recipe(subject=subject(1, layer), head=head.key), values)
        groups = [f"scene {number // 2}" for number in range(N)]
        expected[layer] = raw.mean(), values.mean(), compare(raw, values, groups=groups)
    rows = evaluation_rows(store, subject(1, "norm"))
    assert [row.layer for row in rows] == ["blocks.2", "blocks.10", "norm"]
    for row in rows:
        raw_mean, mean, found = expected[row.layer]
        assert (row.raw, row.value) == pytest.approx((raw_mean, mean))
        assert (row.low, row.high) == pytest.approx((found.low, found.high))
        assert (row.verdict, row.n_groups, row.n_images) == ("helps", N // 2, N)
        assert (row.checkpoint, row.how, row.folder) == ("mae.safetensors", "mu 2", "/photographs")
    assert evaluation_rows(store, subject(2, "norm")) == []


def test_what_was_judged_otherwise_is_no_counterpart(store: Store) -> None:
    publish(store, recipe(subject=subject(1, "norm"), data=digit(3)), np.ones(N))
    publish(store, recipe(subject=subject(1, "norm"), head=digit(9)), np.ones(N))
    assert evaluation_rows(store) == []


def test_only_images_that_both_have_are_compared(store: Store) -> None:
    raw = np.linspace(0, 1, N)
    publish(store, recipe(subject=subject(1, "norm")), raw)
    publish(store, recipe(subject=subject(1, "norm"), head=digit(9)), raw[: N - 10] + 1)
    (row,) = evaluation_rows(store)
    assert (row.n_images, row.difference, row.how) == (N - 10, pytest.approx(1), "")
    assert row.raw == pytest.approx(raw[: N - 10].mean())


def test_one_group_has_no_interval(store: Store) -> None:
    publish(store, recipe(subject=subject(1, "norm")), np.zeros(2))
    publish(store, recipe(subject=subject(1, "norm"), head=digit(9)), np.ones(2))
    (row,) = evaluation_rows(store)
    assert (row.difference, row.low, row.verdict) == (1.0, None, "cannot be told")


def test_a_damaged_evaluation_is_left_out_with_a_word(store: Store, events: list[Event]) -> None:
    publish(store, recipe(subject=subject(1, "norm")), np.zeros(4))
    bad = publish(store, recipe(subject=subject(1, "norm"), head=digit(9)), np.ones(4))
    Path(bad.data.url, VALUES_TABLE).write_bytes(b"PAR1")
    assert evaluation_rows(store) == []
    assert any(isinstance(event, Notice) and bad.address in event.message for event in events)
