"""What the forward pass gives is looked at before it is stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soapworks.errors import PrecisionError
from tests.small import write_checkpoint
from tests.tasks.conftest import run_stages


def changed_checkpoint(folder: Path, name: str, value: float) -> Path:
    write_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][7] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_overflow_of_the_stored_dtype_is_found_and_named(request_of, tmp_path: Path) -> None:
    folder = changed_checkpoint(tmp_path / "massive", "blocks.0.mlp.fc2.bias", 1e5)
    with pytest.raises(PrecisionError, match=r"blocks.0: inf in channel 7 .*0000.png.*float32"):
        run_stages(request_of(checkpoint=str(folder), layers="blocks.0", store_dtype="float16"))


def test_float32_is_the_cure_of_overflow(request_of, tmp_path: Path) -> None:
    folder = changed_checkpoint(tmp_path / "massive", "blocks.0.mlp.fc2.bias", 1e5)
    request = request_of(checkpoint=str(folder), layers="blocks.0", store_dtype="float32")
    (row,) = run_stages(request)
    features = request.store().products("features")
    assert {str(product.open_zarr()["features"].dtype) for product in features} == {"float32"}
    assert all(np.isfinite(product.open_zarr()["features"][...]).all() for product in features)
    assert 0 < row["top_si"] <= 1


def test_nan_is_found_and_nothing_is_published(request_of, tmp_path: Path) -> None:
    folder = changed_checkpoint(tmp_path / "nan", "norm.bias", torch.nan)
    request = request_of(checkpoint=str(folder), layers="norm")
    with pytest.raises(PrecisionError, match=r"norm: nan in channel 7"):
        run_stages(request)
    assert not request.store().products("features")
