"""Layers that float16 does not hold are stored in float32, or refused where it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from soapworks.errors import PrecisionError
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice
from soapworks.tasks.stages.score import read_score_table
from tests.small import write_checkpoint
from tests.tasks.conftest import Forwards, run_stages
from tests.tasks.plan.test_cost import plan
from tests.tasks.test_resume import contents

Change = Callable[[torch.Tensor, torch.Tensor], None]


def ten_far_channels(weight: torch.Tensor, bias: torch.Tensor) -> None:
    bias[:10] = 3000


def one_far_channel(weight: torch.Tensor, bias: torch.Tensor) -> None:
    bias[7] = 5000


def little_variance(weight: torch.Tensor, bias: torch.Tensor) -> None:
    weight *= 1e-3
    bias += 30


def underflow(weight: torch.Tensor, bias: torch.Tensor) -> None:
    weight *= 1e-7
    bias *= 1e-7


def overflow(weight: torch.Tensor, bias: torch.Tensor) -> None:
    weight[3] *= 1e5


def constant_channel(weight: torch.Tensor, bias: torch.Tensor) -> None:
    weight[5], bias[5] = 0, 0.3


CHANGES: list[Change] = [ten_far_channels, one_far_channel, little_variance, underflow, overflow]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Change], str]:
    """Write the small transformer with another final norm."""

    def write(change: Change) -> str:
        folder = write_checkpoint(tmp_path / change.__name__)
        tensors = load_file(folder / "model.safetensors")
        change(tensors["norm.weight"], tensors["norm.bias"])
        save_file(tensors, folder / "model.safetensors")
        return str(folder)

    return write


def scores(store: Store, row: dict[str, Any]) -> pd.DataFrame:
    return read_score_table(store.product(store.product(row["key"]).recipe["scores"]))


def dtypes(store: Store) -> dict[str, str]:
    """Return layer -> dtype of the features that a head was made from."""
    found = {}
    for head in store.products("heads"):
        real = store.product(store.product(head.recipe["scores"]).recipe["real"][0])
        found[head.recipe["subject"]["layer"]] = real.facts["seen"]["dtype"]
    return found


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_default_gives_the_scores_of_float32(request_of, changed, tmp_path: Path, change):
    common = {"checkpoint": changed(change), "layers": "blocks.1,norm"}
    usual = request_of(**common)
    exact = request_of(**common, store_dtype="float32", store=str(tmp_path / "exact"))
    found, expected = run_stages(usual)[1], run_stages(exact)[1]
    assert found["key"] == expected["key"]
    pd.testing.assert_frame_equal(scores(usual.store(), found), scores(exact.store(), expected))
    assert dtypes(usual.store()) == {"blocks.1": "float16", "norm": "float32"}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_float16_is_refused_where_it_does_not_do(request_of, changed, change) -> None:
    request = request_of(checkpoint=changed(change), layers="norm", store_dtype="float16")
    for _ in range(2):
        with pytest.raises(PrecisionError, match=r"norm: .*float16.*--store-dtype auto or float32"):
            run_stages(request)
    assert not request.store().products("features")


def test_the_refusal_names_channel_error_and_limit(request_of, changed) -> None:
    request = request_of(checkpoint=changed(one_far_channel), layers="norm", store_dtype="float16")
    with pytest.raises(PrecisionError, match=r"error of \S+ times .* channel 7 \(limit 0\.001\)"):
        run_stages(request)


def test_a_layer_that_float16_holds_is_stored_in_it(request_of, tmp_path: Path) -> None:
    usual, asked = request_of(), request_of(store_dtype="float16", store=str(tmp_path / "asked"))
    run_stages(usual)
    run_stages(asked)
    assert set(dtypes(usual.store()).values()) == {"float16"}
    assert contents(usual.store()) == contents(asked.store())
    assert "precision" not in usual.store().kinds()


def test_streamed_scores_are_the_stored_ones(request_of, changed, tmp_path: Path) -> None:
    checkpoint = changed(ten_far_channels)
    kept = request_of(checkpoint=checkpoint)
    streamed = request_of(
        checkpoint=checkpoint, keep_features="none", store=str(tmp_path / "streamed")
    )
    assert [r["key"] for r in run_stages(kept)] == [r["key"] for r in run_stages(streamed)]
    ours, theirs = contents(kept.store()), contents(streamed.store())
    assert {k: v for k, v in ours.items() if not k.startswith("features")} == theirs


@pytest.mark.parametrize("keep_features", ["all", "none"])
def test_a_cluster_finds_the_same(
    request_of, changed, dask_cluster, tmp_path: Path, keep_features: str
) -> None:
    common = {"checkpoint": changed(one_far_channel), "keep_features": keep_features}
    here = request_of(**common)
    there = request_of(
        **common, dask=dask_cluster.scheduler_address, store=str(tmp_path / "cluster")
    )
    run_stages(here)
    run_stages(there)
    assert contents(there.store()) == contents(here.store())


def test_it_is_said_once_and_remembered(
    request_of, changed, forwards: Forwards, events: list
) -> None:
    request = request_of(checkpoint=changed(one_far_channel), layers="blocks.0,norm")
    assert plan(request).float32_bytes > 0
    rows = run_stages(request)
    assert [row["cached"] for row in rows] == [False, False]
    told = [event.message for event in events if isinstance(event, Notice)]
    assert len([message for message in told if "float32" in message]) == 1
    # The block that showed it passes again; nothing else does.
    assert forwards.n_images == 31 + 4
    forwards.calls.clear()
    assert plan(request).forward_passes == 0
    assert all(row["cached"] for row in run_stages(request))
    assert not forwards.calls


def test_appended_images_begin_in_float32(
    request_of, changed, forwards: Forwards, photographs: Path
) -> None:
    from tests.small import write_photographs

    request = request_of(checkpoint=changed(one_far_channel), layers="norm")
    run_stages(request)
    forwards.calls.clear()
    write_photographs(photographs, 3, first=21)
    run_stages(request)
    assert forwards.n_images == 3


def test_synthetic_images_count_as_well(
    request_of, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Features of real images fit, those of synthetic ones do not: both are float32."""
    from soapworks.tasks.passes import sources

    original = sources.renormalise
    monkeypatch.setattr(sources, "renormalise", lambda images, *rest: 1e6 * original(images, *rest))
    request = request_of(layers="blocks.0")
    exact = request_of(layers="blocks.0", store_dtype="float32", store=str(tmp_path / "exact"))
    ours, theirs = run_stages(request), run_stages(exact)
    assert dtypes(request.store()) == {"blocks.0": "float32"}
    assert [row["key"] for row in ours] == [row["key"] for row in theirs]


def test_components_of_little_variance_count(request_of, tmp_path: Path) -> None:
    """Every channel is fine by itself; their sum has a millionth of their variance."""
    folder = write_checkpoint(tmp_path / "flat")
    tensors = load_file(folder / "model.safetensors")
    direction = torch.ones(24) / 24**0.5
    squeeze = torch.eye(24) - (1 - 3e-4) * torch.outer(direction, direction)
    for name in ("blocks.1.mlp.fc2.weight", "blocks.1.attn.proj.weight"):
        tensors[name] = squeeze @ tensors[name]
    for name in ("blocks.0.mlp.fc2.weight", "blocks.0.attn.proj.weight", "patch_embed.proj.weight"):
        shape = tensors[name].shape
        tensors[name] = (squeeze @ tensors[name].reshape(24, -1)).reshape(shape)
    tensors["pos_embed"] = tensors["pos_embed"] @ squeeze
    save_file(tensors, folder / "model.safetensors")
    request = request_of(
        checkpoint=str(folder), layers="blocks.1", block_images=8, store_dtype="float16"
    )
    with pytest.raises(PrecisionError, match=r"variance of component 23 \(limit"):
        run_stages(request)


def test_features_of_an_older_version_are_checked(
    request_of, changed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forwards: Forwards
) -> None:
    """They were stored in float16 without a check, and their records say nothing of it."""
    from soapworks.tasks.passes import forward
    from soapworks.tasks.stages import fit_pca

    request = request_of(checkpoint=changed(one_far_channel), layers="blocks.1,norm")
    with monkeypatch.context() as patch:
        patch.setattr(forward, "rounding_fault", lambda *_: None)
        patch.setattr(fit_pca, "float16_fact", lambda *_: None)
        patch.setattr("soapworks.tasks.run.stored_fault", lambda *_: None)
        old = run_stages(request)
    forwards.calls.clear()
    rows = run_stages(request)
    assert [row["cached"] for row in rows] == [True, False]
    assert rows[0]["key"] == old[0]["key"]
    assert {layers for _, layers in forwards.calls} == {("norm",)}
    exact = request_of(
        checkpoint=request.checkpoint,
        layers="norm",
        store_dtype="float32",
        store=str(tmp_path / "exact"),
    )
    (expected,) = run_stages(exact)
    assert rows[1]["key"] == expected["key"]
    assert abs(rows[1]["top_si"] - expected["top_si"]) < 1e-3


def test_a_constant_channel_does_no_harm(request_of, changed, tmp_path: Path) -> None:
    common = {"checkpoint": changed(constant_channel), "layers": "norm"}
    (found,) = run_stages(request_of(**common))
    exact = request_of(**common, store_dtype="float32", store=str(tmp_path / "exact"))
    (expected,) = run_stages(exact)
    assert np.isclose(found["top_si"], expected["top_si"], atol=1e-3)
    assert found["top_component"] == expected["top_component"]


@pytest.mark.parametrize("change", [ten_far_channels, little_variance])
def test_a_pass_in_bfloat16_is_checked_alike(request_of, changed, change) -> None:
    request = request_of(checkpoint=changed(change), layers="norm", precision="bfloat16")
    run_stages(request)
    assert dtypes(request.store()) == {"norm": "float32"}
