import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import soapworks.zoo
from soapworks.zoo.training.architecture import sine_cosine_positions

ZOO = Path(soapworks.zoo.__file__).parent
MODELS = ["pocket_mim", "pocket_supervised"]


def position_code(x, y, n_channels):
    """MAE's embedding, one entry at a time."""
    code = []
    for coordinate in (x, y):
        for wave in (np.sin, np.cos):
            for k in range(n_channels // 4):
                code.append(wave(coordinate / 10000 ** (k / (n_channels // 4))))
    return code


def load(name):
    config = json.loads((ZOO / name / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    return config, model, load_file(ZOO / name / "model.safetensors")


def test_position_embedding_is_sines_and_cosines_of_column_and_row():
    table = sine_cosine_positions(3, 5, 16)
    assert table.shape == (15, 16)
    for row in range(3):
        for column in range(5):
            np.testing.assert_allclose(
                table[row * 5 + column], position_code(column, row, 16), atol=1e-6
            )


@pytest.mark.parametrize("name", MODELS)
def test_shipped_checkpoint_loads_strictly_into_timm(name):
    config, model, state = load(name)
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    with torch.inference_mode():
        tokens = model.eval().forward_features(
            torch.zeros(1, *config["pretrained_cfg"]["input_size"])
        )
    assert tokens.shape == (1, 1 + 12 * 12, config["num_features"])
    assert torch.isfinite(tokens).all()


@pytest.mark.parametrize("name", MODELS)
def test_shipped_checkpoint_loads_the_way_of_the_hub(name):
    model = timm.create_model(f"local-dir:{ZOO / name}", pretrained=True)
    assert model.pretrained_cfg["input_size"] == (3, 96, 96)
    assert model.num_classes == 0
    state = load_file(ZOO / name / "model.safetensors")
    assert torch.equal(model.state_dict()["norm.weight"], state["norm.weight"].float())


@pytest.mark.parametrize("name", MODELS)
def test_shipped_checkpoint_has_the_fixed_positions(name):
    _, _, state = load(name)
    positions = state["pos_embed"].float().numpy()[0]
    assert (positions[0] == 0).all()
    expected = [position_code(i % 12, i // 12, 192) for i in range(144)]
    np.testing.assert_allclose(positions[1:], expected, atol=5e-4)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_checkpoint_is_small_half_precision_and_finite(name):
    _, _, state = load(name)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert all(torch.isfinite(value).all() for value in state.values())
    assert (ZOO / name / "model.safetensors").stat().st_size < 6e6


def test_the_twins_differ_in_their_weights_alone():
    (mim, _, mim_state), (twin, _, twin_state) = (load(name) for name in MODELS)
    assert mim["pretrained_cfg"].pop("tag") != twin["pretrained_cfg"].pop("tag")
    assert mim == twin
    assert mim_state.keys() == twin_state.keys()
    assert not torch.equal(mim_state["norm.weight"], twin_state["norm.weight"])
