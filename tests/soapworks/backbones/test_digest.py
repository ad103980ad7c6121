import hashlib

import pytest
import torch

from soapworks.backbones import weights_digest
from soapworks.errors import InputError


def _state() -> dict[str, torch.Tensor]:
    return {
        "b": torch.arange(12, dtype=torch.float32).reshape(3, 4),
        "a": torch.tensor(3.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
        "flag": torch.tensor([True, False]),
    }


def test_the_digest_is_the_documented_one() -> None:
    # Written out by hand: length, name, dtype, shape, bytes, sorted by name.
    expected = hashlib.sha256()
    expected.update(b"1:a:torch.bfloat16:():" + bytes([0x60, 0x40]))
    expected.update(b"1:b:torch.float32:(3, 4):" + _state()["b"].numpy().tobytes())
    expected.update(b"5:empty:torch.float32:(0, 2):")
    expected.update(b"4:flag:torch.bool:(2,):" + bytes([1, 0]))
    assert weights_digest(_state()) == expected.hexdigest()


def test_order_strides_and_sharing_do_not_matter() -> None:
    state = _state()
    shuffled = dict(reversed(state.items()))
    shuffled["b"] = state["b"].T.contiguous().T
    assert not shuffled["b"].is_contiguous()
    assert weights_digest(shuffled) == weights_digest(state)
    every_second = {"x": torch.arange(6.0)[::2]}
    assert weights_digest(every_second) == weights_digest({"x": torch.tensor([0.0, 2.0, 4.0])})
    big = torch.arange(24.0)
    shared = {"x": big[:12].reshape(3, 4), "y": big[12:]}
    assert weights_digest(shared) == weights_digest({k: v.clone() for k, v in shared.items()})


@pytest.mark.parametrize(
    "change",
    [
        {"b": torch.arange(12, dtype=torch.float32).reshape(4, 3)},
        {"b": torch.arange(12, dtype=torch.int32).reshape(3, 4)},
        {"b": torch.arange(12, dtype=torch.float32).reshape(3, 4) + 1e-6},
        {"c": torch.zeros(0)},
    ],
)
def test_names_shapes_dtypes_and_values_matter(change: dict[str, torch.Tensor]) -> None:
    assert weights_digest(_state() | change) != weights_digest(_state())


def test_values_that_are_no_dense_tensors() -> None:
    with pytest.raises(InputError, match="'a' is not one"):
        weights_digest({"a": torch.eye(2).to_sparse()})
