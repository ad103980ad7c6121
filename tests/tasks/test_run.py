"""The whole way from files to a head, against a truth computed apart from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from soapworks import synthesize
from soapworks.tasks.stages.score import read_score_table
from tests.small import MEAN, STD, build_model, write_checkpoint
from tests.tasks.conftest import Forwards, run_stages


def load_photographs(folder: Path) -> torch.Tensor:
    """Squash as docs/method.md says: 48 x 40 is within [3/4, 4/3], so it is resized as it is."""
    squashed = [
        np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        for path in sorted(folder.iterdir())
    ]
    images = np.stack(squashed).transpose(0, 3, 1, 2) / 255
    images = (images - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    return torch.from_numpy(images.astype(np.float32))


def naive_scores(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Sections 3 to 5 of docs/method.md, naively; tokens (image, position, channel) in float64."""
    mean = real.mean((0, 1))
    flat = (real - mean).reshape(-1, real.shape[-1])
    _, vectors = np.linalg.eigh(flat.T @ flat / (len(flat) - 1))
    vectors = vectors[:, ::-1]
    p = ((real - mean) @ vectors > 0).mean(0)
    q = ((synthetic - mean) @ vectors > 0).mean(0)
    agree = p * q + (1 - p) * (1 - q)
    return (2 * agree / (np.hypot(p, 1 - p) + np.hypot(q, 1 - q))).mean(0)


@pytest.mark.parametrize("layer", ["blocks.0", "norm"])
def test_scores_are_those_of_a_naive_computation(request_of, photographs, layer) -> None:
    request = request_of(layers=layer, store_dtype="float32")
    (row,) = run_stages(request)
    model = build_model()
    with torch.no_grad():
        tokens = []
        for images in (load_photographs(photographs), torch.from_numpy(synthesize(range(10), 32))):
            if layer == "norm":
                found = model.forward_features(images)
            else:
                found = model.blocks[0](model._pos_embed(model.patch_embed(images)))
            tokens.append(found[:, model.num_prefix_tokens :].double().numpy())
    store = request.store()
    head = store.product(row["key"])
    table = read_score_table(store.product(head.recipe["scores"]))
    expected = naive_scores(*tokens)
    # A norm without weights leaves one direction without variance: its signs are rounding.
    real = table["variance_share"] > 1e-9
    assert real.sum() >= 23
    # A response within float32 rounding of zero may fall on either side: 1 of 21 x 16 tokens.
    np.testing.assert_allclose(table["si"][real], expected[real], atol=3e-3)
    assert np.abs(table["si"] - expected)[real].mean() < 2e-4


def test_head_is_identity_minus_the_suppressed_directions(request_of) -> None:
    request = request_of(layers="norm", mu=3)
    (row,) = run_stages(request)
    store = request.store()
    product = store.product(row["key"])
    pca = store.product(product.recipe["pca"]).open_zarr()
    table = read_score_table(store.product(product.recipe["scores"]))
    components = pca["components"][...]
    expected = np.eye(24)
    for rank, d in enumerate(np.argsort(-table["si"].to_numpy(), kind="stable")):
        weight = table["si"][d] / (1 + np.exp(-(2.5 - rank) / 0.05))
        expected -= weight * np.outer(components[d], components[d])
    weight = load_file(f"{product.data.url}/head.safetensors")["weight"]
    np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_second_run_does_no_forward_pass(request_of, forwards: Forwards) -> None:
    run_stages(request_of())
    assert forwards.n_images == 31
    rows = run_stages(request_of())
    assert forwards.n_images == 31
    assert all(row["cached"] for row in rows)


def test_all_layers_come_from_one_pass(request_of, forwards: Forwards) -> None:
    run_stages(request_of())
    assert {layers for _, layers in forwards.calls} == {("blocks.0", "blocks.1", "norm")}


def test_only_missing_layers_are_extracted(request_of, forwards: Forwards) -> None:
    run_stages(request_of(layers="blocks.0"))
    forwards.calls.clear()
    run_stages(request_of(layers="blocks.0,norm"))
    assert {layers for _, layers in forwards.calls} == {("norm",)}


def test_another_mu_makes_a_head_only(request_of, forwards: Forwards) -> None:
    run_stages(request_of(layers="norm"))
    forwards.calls.clear()
    before = {p.key for p in request_of().store().products()}
    run_stages(request_of(layers="norm", mu="threshold"))
    after = request_of().store().products()
    assert [p.kind for p in after if p.key not in before] == ["heads"]
    assert not forwards.calls


def test_same_weights_in_another_file_recompute_nothing(
    request_of, forwards: Forwards, tmp_path: Path
) -> None:
    run_stages(request_of())
    forwards.calls.clear()
    other = tmp_path / "renamed.pth"
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in build_model().state_dict().items()}}, other
    )
    folder = tmp_path / "other"
    folder.mkdir()
    config = Path(request_of().checkpoint) / "config.json"
    (folder / "config.json").write_bytes(config.read_bytes())
    other.rename(folder / "pytorch_model.bin")
    rows = run_stages(request_of(checkpoint=str(folder)))
    assert all(row["cached"] for row in rows)
    assert not forwards.calls


def test_changed_weights_under_an_old_name_recompute_everything(
    request_of, forwards: Forwards, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "model", seed=1)
    run_stages(request_of(checkpoint=str(folder)))
    write_checkpoint(folder, seed=2)
    forwards.calls.clear()
    rows = run_stages(request_of(checkpoint=str(folder)))
    assert not any(row["cached"] for row in rows)
    assert forwards.n_images == 31
