"""Features that do not vary, or not in every direction."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

from soapworks.errors import CollapsedFeaturesError
from soapworks.storage_schemas.store import Store
from soapworks.tasks.plan.request import PlannedRequest, ScoreRequest, plan_of
from soapworks.tasks.reports.page import write_report
from soapworks.tasks.stages.score import read_score_table
from tests.small import write_checkpoint, write_photographs
from tests.tasks.conftest import run_stages

Tensors = dict[str, torch.Tensor]


def edited(folder: Path, edit: Callable[[Tensors], None]) -> str:
    write_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def all_zero(tensors: Tensors) -> None:
    for tensor in tensors.values():
        tensor.zero_()


def constant(tensors: Tensors) -> None:
    tensors["norm.weight"].zero_()
    tensors["norm.bias"].copy_(torch.linspace(-30, 3000, 24))


def dead_patch_embedding(tensors: Tensors) -> None:
    """Leave all tokens alike at the input: what follows differs by rounding alone."""
    for name in ("patch_embed.proj.weight", "pos_embed"):
        tensors[name].zero_()


@pytest.mark.parametrize("kept", ["all", "none"])
@pytest.mark.parametrize("store_dtype", ["auto", "float32"])
@pytest.mark.parametrize("edit", [all_zero, constant, dead_patch_embedding])
def test_a_layer_that_does_not_vary_ends_with_an_error(
    request_of, tmp_path: Path, edit, store_dtype: str, kept: str
) -> None:
    checkpoint = edited(tmp_path / "model", edit)
    request = request_of(
        checkpoint=checkpoint, layers="norm", store_dtype=store_dtype, keep_features=kept
    )
    with pytest.raises(CollapsedFeaturesError, match=r"layer norm of .*: the features do not vary"):
        run_stages(request)
    assert not [p for kind in ("scores", "heads") for p in request.store().products(kind)]


def test_components_that_an_earlier_version_stored_are_refused_too(
    request_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(checkpoint=edited(tmp_path / "model", all_zero), layers="norm")
    with monkeypatch.context() as patch:
        patch.setattr("soapworks.tasks.stages.fit_pca.fit", fit_as_before)
        with pytest.raises(CollapsedFeaturesError, match=r"layer norm .* none of 24 components"):
            run_stages(request)
    assert request.store().products("pca")
    assert not request.store().products("scores")


def fit_as_before(moments):
    from soapworks.method.pca import Pca

    return Pca(mean=moments.mean, components=np.eye(24), explained_variance=np.zeros(24), count=4)


def dead_channels(tensors: Tensors) -> None:
    tensors["norm.weight"][14:] = 0
    tensors["norm.bias"][14:] = 30.1


@pytest.mark.parametrize("weights", ["sigmoid", "scores"])
@pytest.mark.parametrize("store_dtype", ["auto", "float32"])
def test_components_without_variance_have_no_score_and_no_weight(
    request_of, tmp_path: Path, store_dtype: str, weights: str
) -> None:
    request = request_of(
        checkpoint=edited(tmp_path / "model", dead_channels),
        layers="norm",
        store_dtype=store_dtype,
        weights=weights,
        mu=24.0,
    )
    (row,) = run_stages(request)
    head, table = head_of(request.store(), row)
    dead = table["si"].isna()
    assert dead.sum() == 10
    assert (table["explained_variance"][dead] == 0).all()
    assert table["standard_error"].isna().equals(dead)
    assert sorted(table["rank"][dead]) == list(range(14, 24))
    assert row["top_component"] in set(table["component"][~dead])
    assert row["n_invariant"] == (table["si"] > 0.75).sum()
    matrix = load_arrays(f"{head.data.url}/head.safetensors")["weight"]
    kept = np.abs(matrix[14:] - np.eye(24)[14:]).max()
    assert kept < 1e-6
    assert np.isfinite(matrix).all()
    # What shows scores gets along without some.
    written = write_report(request.store(), plan_of(planned(request)), "model")
    assert written


def test_fewer_tokens_than_channels(request_of, tmp_path: Path) -> None:
    request = request_of(images=str(write_photographs(tmp_path / "one", 1)), layers="blocks.0")
    (row,) = run_stages(request)
    _, table = head_of(request.store(), row)
    # 16 tokens have 15 directions.
    assert table["si"].isna().sum() == 24 - 15
    assert np.isfinite(row["top_si"])


def head_of(store: Store, row):
    head = store.product(row["key"])
    return head, read_score_table(store.product(head.recipe["scores"]))


def planned(request: ScoreRequest) -> PlannedRequest:
    from soapworks.tasks import run as stages

    (manifest,) = stages.index_stage(request).keys
    (identity,) = stages.identify_stage(request).keys
    return request.planned(manifest, identity)
