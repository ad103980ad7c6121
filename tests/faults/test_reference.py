"""The undisturbed run itself: what all others are compared with is compared with the method."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.faults import oracle
from tests.faults.arena import Arena


def tokens_of(arena: Arena, layer: str) -> Iterator[np.ndarray]:
    """Yield tokens (image, position, channel) of real and synthetic images, by timm alone."""
    import torch

    from soapworks import synthesize
    from tests.small import build_model
    from tests.tasks.test_run import load_photographs

    model = build_model()
    for images in (load_photographs(arena.folder / "photographs"), synthesize(range(6), 32)):
        with torch.no_grad():
            tokens = model.blocks(model._pos_embed(model.patch_embed(torch.as_tensor(images))))
            tokens = model.norm(tokens) if layer == "norm" else tokens
        yield tokens[:, model.num_prefix_tokens :].numpy()


def products(store: Path, kind: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield recipe and data of all products of a kind, read from their files."""
    for address, product in oracle.published(store).items():
        if address.startswith(f"{kind}/"):
            folder = store / address
            record = json.loads((folder / "record.json").read_bytes())
            assert product.found == product.stated
            yield json.loads((folder / "recipe.json").read_bytes()), folder / record["attempt"]


@pytest.mark.parametrize("keep", ["all", "none"])
def test_the_reference_is_what_the_method_says(arena: Arena, keep: str) -> None:
    from safetensors.numpy import load_file

    from tests.tasks.test_run import naive_scores

    store = arena.reference
    if keep == "none":
        store = arena.scratch() / "store"
        assert arena.start(store, options={"keep_features": "none"}).wait().finished
        assert not (store / "features").exists()
    heads = list(products(store, "heads"))
    assert {recipe["subject"]["layer"] for recipe, _ in heads} == set(arena.layers.split(","))
    for recipe, data in heads:
        facts = json.loads((data.parent / "record.json").read_bytes())["facts"]
        real, synthetic = (
            tokens.astype(facts["measured"]["dtype"]).astype(float)
            for tokens in tokens_of(arena, recipe["subject"]["layer"])
        )
        table = pd.read_parquet(data / "scores.parquet")
        # A norm without weights leaves one direction without variance: its signs are rounding.
        varies = (table["variance_share"] > 1e-9).to_numpy()
        assert varies.sum() >= 23
        expected = naive_scores(real, synthetic)
        # Equal to 1e-15 here; on another machine a response within rounding of zero may flip.
        np.testing.assert_allclose(table["si"][varies], expected[varies], atol=1e-2)
        assert np.abs(table["si"] - expected)[varies].mean() < 1e-3
        _, vectors = np.linalg.eigh(np.cov(real.reshape(-1, 24).T))
        head = np.eye(24)
        for row in table[varies].itertuples():
            vector = vectors[:, 23 - row.component]
            weight = row.si / (1 + np.exp(-(1.5 - row.rank) / 0.05))
            head -= weight * np.outer(vector, vector)
        np.testing.assert_allclose(load_file(data / "head.safetensors")["weight"], head, atol=1e-3)
