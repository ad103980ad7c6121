"""Evaluations: what changes a key, and tables that are checked on write and on read."""

import pandas as pd
import pytest

from soapworks.errors import DamagedProductError, InputError
from soapworks.storage_schemas.layout.evaluations import (
    EvaluationInput,
    EvaluationRecipe,
    read_values,
    write_values,
)
from soapworks.storage_schemas.layout.recipes import Subject

SEEN = EvaluationInput(
    image_size=(32, 32),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    precision="float32",
    preprocessing="squash",
    interpolation="bilinear",
    crop_fraction=1.0,
    crop_mode="center",
)


def recipe(**changes: object) -> EvaluationRecipe:
    subject = Subject(architecture="vit_tiny", weights="a" * 64, layer="norm")
    fields = {"subject": subject, "task": "saliency", "data": "b" * 64, "input": SEEN}
    return EvaluationRecipe(**{**fields, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"head": "c" * 64},
        {"task": "retrieval"},
        {"settings": (("k", "20"),)},
        {"data": "d" * 64},
        {"train": "d" * 64},
        {"guide": "d" * 64},
        {"input": SEEN.model_copy(update={"image_size": (48, 48)})},
    ],
)
def test_every_field_changes_the_key(change: dict[str, object]) -> None:
    assert recipe(**change).key != recipe().key


def test_raw_and_head_can_be_told_by_their_names() -> None:
    assert recipe().slug == "vit_tiny-norm-saliency-raw"
    assert recipe(head="c" * 64).slug == "vit_tiny-norm-saliency-head"


def test_values_come_back_as_they_were_written() -> None:
    table = pd.DataFrame(
        {"image": [0, 1], "group": ["a", "b"], "measure": ["iou", "iou"], "value": [0.25, 0.5]}
    )
    pd.testing.assert_frame_equal(read_values(write_values(table), n_rows=2), table)
    with pytest.raises(DamagedProductError, match="2 rows where it should have 3"):
        read_values(write_values(table), n_rows=3)
    with pytest.raises(InputError, match="has the columns"):
        write_values(table.drop(columns="group"))
