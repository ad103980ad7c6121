import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from soapworks.errors import (
    DamagedProductError,
    HeadError,
    InputError,
    MissingProductError,
    StoreError,
)
from soapworks.heads.head import SoapHead, fold
from soapworks.method.moments import Moments
from soapworks.method.pca import fit_pca
from soapworks.method.weights import select_components

quick = settings(max_examples=30, derandomize=True, deadline=None, database=None)
METADATA = {"layer": "blocks.5", "checkpoint": "made up", "a": "1", "z": "2"}


def make_pca(d=8, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((200, d)) @ rng.standard_normal((d, d)) + rng.uniform(-5, 5, d)
    return fit_pca(Moments(d).update(tokens))


def make_head(**options):
    weights = np.linspace(1, 0, 8)
    return SoapHead.from_pca(make_pca(), weights, metadata=METADATA, **options)


def tokens(*shape, dtype=torch.float32):
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_each_component_is_suppressed_by_its_weight():
    pca, weights = make_pca(), np.linspace(1, 0, 8)
    z = tokens(50)
    before = z.double().numpy() @ pca.components.T
    after = SoapHead.from_pca(pca, weights)(z).double().numpy() @ pca.components.T
    np.testing.assert_allclose(after, before * (1 - weights), atol=2e-6)


def test_a_centred_head_keeps_the_mean():
    pca = make_pca()
    weights = select_components(8, [0, 3])
    mean = torch.from_numpy(pca.mean).float()
    np.testing.assert_allclose(SoapHead.from_pca(pca, weights, centred=True)(mean), mean, atol=1e-5)
    plain = SoapHead.from_pca(pca, weights)(mean).numpy()
    expected = pca.mean - pca.components[[0, 3]].T @ (pca.components[[0, 3]] @ pca.mean)
    np.testing.assert_allclose(plain, expected, atol=1e-5)


@quick
@given(st.sets(st.integers(0, 7)))
def test_selecting_components_is_idempotent(selection):
    head = SoapHead.from_pca(make_pca(), select_components(8, selection))
    once = head(tokens(20))
    np.testing.assert_allclose(head(once), once, atol=3e-6)
    assert torch.linalg.matrix_rank(head.weight, tol=1e-4) == 8 - len(selection)


def test_weight_is_a_symmetric_float32_buffer():
    head = make_head()
    assert head.weight.dtype == torch.float32
    assert torch.equal(head.weight, head.weight.T)
    # Off the diagonal there is nothing but rounding, different on both sides.
    shrunk = SoapHead.from_pca(make_pca(64), np.full(64, 0.7)).weight
    assert torch.equal(shrunk, shrunk.T)
    assert list(head.parameters()) == []
    assert list(head.state_dict()) == ["weight"]
    assert list(make_head(centred=True).state_dict()) == ["weight", "bias"]


def test_zero_weights_are_the_identity_bit_for_bit():
    z = tokens(3, 4)
    assert torch.equal(SoapHead.from_pca(make_pca(), np.zeros(8))(z), z)


@pytest.mark.parametrize("weights", [np.ones(7), np.full(8, np.nan), np.ones((8, 1))])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(InputError, match="8 channels"):
        SoapHead.from_pca(make_pca(), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("cast_head", [True, False])
def test_tokens_keep_their_dtype(dtype, cast_head):
    head = make_head(centred=True)
    z = tokens(5, 3)
    expected = head(z)
    result = (head.to(dtype) if cast_head else head)(z.to(dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result.float(), expected, atol=0.15)


def test_autocast_keeps_the_dtype_too():
    with torch.autocast("cpu", torch.bfloat16):
        assert make_head()(tokens(2, 3)).dtype == torch.float32


def test_gradients_pass_through():
    head = make_head()
    z = tokens(4).requires_grad_()
    head(z).sum().backward()
    np.testing.assert_allclose(z.grad, head.weight.sum(dim=0).expand(4, 8), rtol=1e-5, atol=1e-6)


def test_a_head_compiles_whole():
    head = make_head()
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    assert torch.equal(compiled(tokens(2, 3)), head(tokens(2, 3)))


def test_copies_are_equal_and_independent():
    head = make_head(centred=True)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert other.metadata == METADATA
        assert torch.equal(other.weight, head.weight)
        other.weight.zero_()
        assert head.weight.any()
    fresh = SoapHead(np.eye(8), np.zeros(8))
    fresh.load_state_dict(head.state_dict())
    assert torch.equal(fresh.weight, head.weight)


def test_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match="8 channels, and they have 6"):
        make_head()(torch.zeros(2, 6))


@pytest.mark.parametrize("centred", [True, False])
def test_a_saved_head_comes_back(tmp_path, centred):
    head = make_head(centred=centred)
    head.save(tmp_path / "head.safetensors")
    for loaded in (
        SoapHead.load(tmp_path / "head.safetensors"),
        SoapHead.from_bytes(head.to_bytes()),
    ):
        assert torch.equal(loaded.weight, head.weight)
        assert loaded.metadata == METADATA
        assert (loaded.bias is not None) == centred
        assert not centred or torch.equal(loaded.bias, head.bias)
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]


def test_the_file_is_plain_safetensors(tmp_path):
    head = make_head(centred=True)
    head.save(tmp_path / "head.safetensors")
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        assert file.metadata() == {**METADATA, "format": "soapworks.head", "version": "1"}
        assert sorted(file.keys()) == ["bias", "weight"]
        assert torch.equal(file.get_tensor("weight"), head.weight)


def test_a_head_in_half_precision_is_saved_in_float32():
    assert SoapHead.from_bytes(make_head().half().to_bytes()).weight.dtype == torch.float32


def test_equal_heads_give_equal_bytes_in_every_process():
    code = (
        "import hashlib, numpy as np; from soapworks.heads._file import encode\n"
        f"data = encode(dict(weight=np.eye(8, dtype='f'), bias=np.ones(8, 'f')), {METADATA!r})\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    outputs = {subprocess.run(command, check=True, capture_output=True).stdout for _ in range(2)}
    assert len(outputs) == 1


def test_loading_a_head_needs_torch_safetensors_and_numpy_alone():
    code = (
        "import sys, soapworks; soapworks.SoapHead; soapworks.attach; soapworks.fold\n"
        "import soapworks.heads.head, soapworks.heads.attachment\n"
        "heavy = {'timm', 'torchvision', 'scipy', 'PIL', 'zarr', 'prefect', 'dask', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_finished_product_s_folder_can_be_loaded(tmp_path):
    with pytest.raises(MissingProductError, match="no finished head"):
        SoapHead.load(tmp_path)
    file = published(tmp_path)
    assert torch.equal(SoapHead.load(str(tmp_path)).weight, make_head().weight)
    assert torch.equal(SoapHead.load(file).weight, make_head().weight)
    file.unlink()
    with pytest.raises(MissingProductError, match="is gone"):
        SoapHead.load(tmp_path)


def published(folder):
    """Write a head as a store does; return its file."""
    (folder / "attempt-1").mkdir()
    file = folder / "attempt-1" / "head.safetensors"
    make_head(centred=True).save(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    files = {"head.safetensors": {"bytes": file.stat().st_size, "sha256": digest}}
    (folder / "record.json").write_text(json.dumps({"attempt": "attempt-1", "files": files}))
    return file


def test_one_flipped_bit_anywhere_is_damage(tmp_path):
    file = published(tmp_path)
    data = bytearray(file.read_bytes())
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        for path in (tmp_path, file):
            with pytest.raises(DamagedProductError, match=r"head.safetensors is damaged: .*repair"):
                SoapHead.load(path)
        data[place] ^= 1 << place % 8
    file.write_bytes(data)
    SoapHead.load(tmp_path)


@pytest.mark.parametrize("change", [lambda d: d[:-4], lambda d: d + b"\0" * 4, lambda d: b""])
def test_a_file_cut_short_or_grown_is_damage(tmp_path, change):
    file = published(tmp_path)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DamagedProductError):
        SoapHead.load(tmp_path)


def test_another_head_in_its_place_is_damage(tmp_path):
    SoapHead(np.eye(8)).save(published(tmp_path))
    with pytest.raises(DamagedProductError):
        SoapHead.load(tmp_path)


def test_a_copied_file_needs_no_record(tmp_path):
    # Whatever lies above a file that is not in a store is none of its business.
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    make_head().save(tmp_path / "mine" / "head.safetensors")
    SoapHead.load(tmp_path / "mine" / "head.safetensors")


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        "{}",
        '{"attempt": 3}',
        '{"attempt": "attempt-1"}',
        '{"attempt": "attempt-1", "files": {"head.safetensors": "digest"}}',
        '{"attempt": "../elsewhere", "files": {"head.safetensors": {"sha256": ""}}}',
        '{"attempt": "..", "files": {"head.safetensors": {"sha256": ""}}}',
        '{"attempt": "", "files": {"head.safetensors": {"sha256": ""}}}',
        "[" * 100_000,
    ],
)
def test_a_record_that_names_no_attempt_is_refused(tmp_path, record):
    (tmp_path / "record.json").write_text(record)
    with pytest.raises(HeadError, match="export the head again"):
        SoapHead.load(tmp_path)


def test_nothing_there_is_told():
    with pytest.raises(MissingProductError, match="from_bytes"):
        SoapHead.load("s3://bucket/head.safetensors")


def damaged(**changes):
    tensors = {"weight": torch.eye(3), **changes}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return safetensors.torch.save(tensors, {"format": "soapworks.head", "version": "1"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (b"no head at all", "cut short"),
        (make_head().to_bytes()[:-1], "cut short"),
        (make_head().to_bytes()[:30], "cut short"),
        (pickle.dumps({"weight": 1}), "cut short"),
        (safetensors.torch.save({"weight": torch.eye(3)}), "not a SOAP head"),
        (safetensors.torch.save({"weight": torch.eye(3).bfloat16()}), "not a SOAP head"),
        (damaged(weight=None, wait=torch.eye(3)), "missing: weight; unexpected: wait"),
        (damaged(mean=torch.ones(3)), "missing: nothing; unexpected: mean"),
        (damaged(weight=torch.ones(3, 2)), r"\(D, D\), not \(3, 2\)"),
        (damaged(weight=torch.ones(3)), r"\(D, D\), not \(3,\)"),
        (damaged(bias=torch.ones(2)), r"\(3,\), not \(2,\)"),
        (damaged(weight=torch.eye(3).double()), "float32, not float64"),
        (damaged(weight=torch.full((3, 3), torch.nan)), "weight of .* NaN"),
        (damaged(bias=torch.full((3,), torch.inf)), "bias of .* infinity"),
        (make_head().to_bytes().replace(b'"version":"1"', b'"version":"2"'), "upgrade"),
    ],
)
def test_what_is_no_whole_head_is_refused(tmp_path, data, message):
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(HeadError, match=message) as caught:
        SoapHead.load(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value)


def test_matrices_that_are_no_head_are_refused():
    with pytest.raises(HeadError, match=r"\(D, D\)"):
        SoapHead(np.ones((2, 3)))
    with pytest.raises(HeadError, match="NaN"):
        SoapHead(np.full((2, 2), np.nan))


def test_metadata_are_text_and_leave_the_format_alone():
    with pytest.raises(InputError, match="'mu' is 2"):
        SoapHead(np.eye(2), metadata={"mu": 2})
    with pytest.raises(InputError, match="cannot use 'format'"):
        SoapHead(np.eye(2), metadata={"format": "pt"})


def test_a_failed_save_leaves_the_old_head_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    make_head().save(path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        make_head(centred=True).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="existing folder"):
        make_head().save(tmp_path / "nowhere" / "head.safetensors")


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_fold_composes_the_head_into_a_linear_layer(centred, with_bias):
    torch.manual_seed(0)
    head, linear = make_head(centred=centred), nn.Linear(8, 3, bias=with_bias)
    # An unsymmetric matrix tells W P from W P'.
    head.weight += torch.triu(torch.rand(8, 8))
    folded = fold(head, linear)
    assert type(folded) is nn.Linear
    assert (folded.bias is not None) == (centred or with_bias)
    np.testing.assert_allclose(
        folded(tokens(5)).detach(), linear(head(tokens(5))).detach(), atol=1e-5
    )
    exact = linear.weight.double() @ head.weight.double()
    assert torch.equal(folded.weight, exact.float())


def test_fold_keeps_the_layer_s_dtype_and_the_random_state():
    linear = nn.Linear(8, 3).half()
    state = torch.get_rng_state()
    assert fold(make_head(), linear).weight.dtype == torch.float16
    assert torch.equal(torch.get_rng_state(), state)


def test_fold_refuses_what_does_not_follow():
    with pytest.raises(InputError, match=r"8 channels .* takes 6"):
        fold(make_head(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="not into Conv2d"):
        fold(make_head(), nn.Conv2d(8, 2, 1))


def test_what_is_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        head = make_head(centred=True)
        folded = fold(head, nn.Linear(8, 3))
    for module in (head, copy.deepcopy(head), folded):
        z = tokens(4).requires_grad_()
        module(z).sum().backward()
        assert z.grad.any()
    assert folded.weight.requires_grad


@pytest.mark.parametrize(
    "z",
    [np.ones((2, 8), "f4"), torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8) > 0, [1.0]],
    ids=["array", "integers", "booleans", "list"],
)
def test_what_is_no_floating_tensor_is_refused(z):
    with pytest.raises(InputError, match="torch tensor of a floating dtype, not"):
        make_head()(z)


def test_what_cannot_be_read_is_told_in_a_sentence(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HeadError, match="is not a file"):
        SoapHead.load(tmp_path / "fifo")
    make_head().save(tmp_path / "head.safetensors")

    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", denied)
        with pytest.raises(StoreError, match=r"cannot be read \(Permission denied\); check"):
            SoapHead.load(tmp_path / "head.safetensors")
    monkeypatch.setattr("soapworks.heads._file.MAX_BYTES", 100)
    with pytest.raises(HeadError, match="larger than 100 bytes"):
        SoapHead.load(tmp_path / "head.safetensors")


def test_a_name_that_no_file_can_have_is_told_in_a_sentence():
    with pytest.raises(StoreError):
        SoapHead.load("x" * 300)
