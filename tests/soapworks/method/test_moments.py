import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soapworks.errors import InputError, PrecisionError
from soapworks.method import _device, _tokens
from soapworks.method.moments import Moments

quick = settings(max_examples=25, derandomize=True, deadline=None, database=None)


def massive_tokens(n=6000, d=24, seed=0, ratio=100.0):
    """Correlated tokens, every third channel with a mean ``ratio`` times its standard deviation."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    tokens = rng.standard_normal((n, d)) * np.geomspace(2, 0.5, d) @ turn
    deviation = tokens.std(axis=0)
    tokens[:, ::3] += ratio * deviation[::3]
    return tokens.astype(np.float32)


def truth(tokens):
    wide = np.asarray(tokens, np.longdouble).reshape(-1, tokens.shape[-1])
    mean = wide.mean(axis=0)
    return mean.astype(np.float64), (wide - mean).T.dot(wide - mean).astype(np.float64)


def eigenvalue_error(scatter, exact):
    expected = np.linalg.eigvalsh(exact)
    return np.max(np.abs(np.linalg.eigvalsh(scatter) - expected) / expected)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_tokens, "MAX_BLOCK_ROWS", 70)


def test_moments_are_those_of_numpy():
    tokens = massive_tokens()
    moments = Moments(24).update(tokens)
    mean, scatter = truth(tokens)
    assert moments.count == 6000
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(moments.scatter, scatter, atol=1e-13 * scatter.max())
    np.testing.assert_allclose(
        moments.covariance, np.cov(tokens.astype(np.float64).T), atol=1e-9 * scatter.max() / 5999
    )


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-6), ("float64", 1e-11)])
@pytest.mark.parametrize("n_parts", [1, 2, 7, 300])
def test_eigenvalues_survive_massive_channels_however_chunked(precision, limit, n_parts):
    tokens = massive_tokens()
    _, scatter = truth(tokens)
    moments = Moments(24, precision=precision)
    for part in np.array_split(tokens, n_parts):
        moments.update(part)
    assert eigenvalue_error(moments.scatter, scatter) < limit


@pytest.mark.parametrize("order", ["sorted", "periodic"])
def test_eigenvalues_survive_rows_in_an_awkward_order(order, small_blocks):
    tokens = massive_tokens(ratio=1000)
    if order == "sorted":
        tokens = tokens[np.argsort(tokens[:, 1])]
    else:
        tokens[::16] += 4 * tokens.std(axis=0)
    _, scatter = truth(tokens)
    moments = Moments(24, precision="float32").update(tokens)
    assert eigenvalue_error(moments.scatter, scatter) < 2e-6


def test_float64_tokens_with_huge_means_keep_their_digits_in_float32_products():
    rng = np.random.default_rng(1)
    small = rng.standard_normal((3000, 6))
    moments = Moments(6, precision="float32").update(small + 1e7)
    on_device = _device.moments_on_device(torch.from_numpy(small + 1e7), torch.float32)
    _, scatter = truth(small + 1e7)
    assert eigenvalue_error(moments.scatter, scatter) < 1e-6
    assert eigenvalue_error(on_device[2], scatter) < 1e-6


@quick
@given(cuts=st.lists(st.integers(0, 400), max_size=6), seed=st.integers(0, 99))
def test_chunking_does_not_matter(cuts, seed):
    tokens = massive_tokens(400, 5, seed)
    mean, scatter = truth(tokens)
    moments = Moments(5)
    for part in np.split(tokens, sorted(cuts)):
        moments.update(part)
    assert moments.count == 400
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moments.scatter, scatter, atol=1e-12 * np.abs(scatter).max())


@quick
@given(order=st.permutations(range(5)), depth=st.integers(1, 4))
def test_merge_order_does_not_matter(order, depth):
    tokens = massive_tokens(500, 4)
    sizes = [0, 10, 11, 250, 499]  # an empty part and uneven ones
    parts = np.split(tokens, sizes[1:])
    moments = [Moments(4).update(parts[i]) for i in order]
    left = Moments(4)
    for part in moments[:depth]:
        left.merge(part)
    right = moments[depth]
    for part in moments[depth + 1 :]:
        right.merge(part)
    merged = right.merge(left)
    mean, scatter = truth(tokens)
    assert merged.count == 500
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(merged.scatter, scatter, atol=1e-12 * np.abs(scatter).max())


def test_blocks_inside_one_update_are_joined(small_blocks, monkeypatch):
    monkeypatch.setattr("soapworks.method.moments._MAX_PENDING_BLOCKS", 3)
    tokens = massive_tokens()
    mean, scatter = truth(tokens)
    moments = Moments(24).update(tokens)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moments.scatter, scatter, atol=1e-12 * scatter.max())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_tensors_of_any_dtype_count_with_the_values_they_hold(dtype, precision):
    tokens = torch.from_numpy(massive_tokens(700, 6)).to(dtype).requires_grad_()
    mean, scatter = truth(tokens.detach().double().numpy())
    moments = Moments(6, precision=precision).update(tokens)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(moments.scatter, scatter, atol=1e-6 * np.abs(scatter).max())


def test_read_only_float16_arrays_are_welcome():
    tokens = massive_tokens(100, 6).astype(np.float16)
    tokens.flags.writeable = False
    mean, _ = truth(tokens)
    np.testing.assert_allclose(Moments(6).update(tokens).mean, mean, rtol=1e-12, atol=1e-13)


def test_images_in_a_grid_count_as_rows(small_blocks):
    grid = massive_tokens(7 * 5 * 4, 6).reshape(7, 5, 4, 6)
    sliced = np.concatenate([grid, grid], axis=2)[:, :, :4]
    mean, scatter = truth(grid)
    for tokens in (grid, sliced, torch.from_numpy(sliced), np.asfortranarray(grid)):
        moments = Moments(6).update(tokens)
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(moments.scatter, scatter, atol=1e-12 * scatter.max())


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_the_device_path_gives_the_same(precision, dtype, monkeypatch):
    monkeypatch.setattr(_device, "DEVICE_BLOCK_ELEMENTS", 24 * 1300)
    tokens = torch.from_numpy(massive_tokens()).to(dtype)
    mean, scatter = truth(tokens.double().numpy())
    with torch.autocast("cpu", torch.bfloat16):
        parts = _device.moments_on_device(tokens, getattr(torch, precision))
    assert parts[0] == 6000
    np.testing.assert_allclose(parts[1], mean, rtol=1e-7, atol=1e-6)
    limit = 1e-6 if precision == "float32" else 1e-11
    assert eigenvalue_error(parts[2], scatter) < limit


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_cuda_tensors_are_multiplied_without_tensorfloat(precision):
    tokens = massive_tokens()
    _, scatter = truth(tokens)
    torch.set_float32_matmul_precision("high")
    try:
        moments = Moments(24, precision=precision).update(torch.from_numpy(tokens).cuda())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert eigenvalue_error(moments.scatter, scatter) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_nan_and_infinity_are_refused_by_channel(bad, precision, kind):
    tokens = massive_tokens(100, 6)
    tokens[37, 4] = bad
    moments = Moments(6, precision=precision)
    with pytest.raises(PrecisionError, match=r"channel 4\b"):
        moments.update(tokens if kind == "numpy" else torch.from_numpy(tokens))
    assert moments.count == 0
    assert not moments.scatter.any()


def test_moments_stay_whole_when_a_later_block_is_refused(small_blocks):
    tokens = massive_tokens(210, 6)
    tokens[150, 0] = np.nan
    moments = Moments(6)
    with pytest.raises(PrecisionError):
        moments.update(tokens)
    _, scatter = truth(tokens[:140])
    assert moments.count == 140
    np.testing.assert_allclose(moments.scatter, scatter, atol=1e-12 * scatter.max())


def test_overflow_of_float32_products_is_told_apart():
    tokens = massive_tokens(100, 6)
    tokens[:, 2] = np.linspace(-1e30, 1e30, 100)
    with pytest.raises(PrecisionError, match="too large to be squared in channel 2"):
        Moments(6, precision="float32").update(tokens)


def test_another_number_of_channels_is_refused_with_both_numbers():
    with pytest.raises(InputError, match=r"have 5 channels.* 6 channels"):
        Moments(6).update(np.zeros((10, 5), np.float32))


@pytest.mark.parametrize(
    "tokens",
    [np.zeros(6), np.zeros((2, 6), complex), np.zeros((2, 6), bool), torch.zeros(2, 6).bool()],
    ids=["one axis", "complex", "bool", "bool tensor"],
)
def test_what_is_no_token_is_refused(tokens):
    with pytest.raises(InputError):
        Moments(6).update(tokens)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="at least 1 channel"):
        Moments(0)
    with pytest.raises(InputError, match="precision"):
        Moments(3, precision="bfloat16")
    with pytest.raises(InputError, match=r"2 channels cannot be merged .* 3 channels"):
        Moments(3).merge(Moments(2))
    with pytest.raises(InputError, match="at least 2 tokens, and 1"):
        _ = Moments(3).update(np.ones((1, 3))).covariance
    with pytest.raises(InputError, match="scatter"):
        Moments.from_parts(3, np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(PrecisionError, match="NaN"):
        Moments.from_parts(3, np.zeros(3), np.full((3, 3), np.nan))


def test_an_empty_update_changes_nothing():
    moments = Moments(3).update(np.zeros((0, 3))).update(torch.zeros(0, 2, 2, 3))
    assert moments.count == 0
    assert not moments.mean.any()


def test_parts_stored_and_pickled_come_back():
    moments = Moments(6).update(massive_tokens(100, 6))
    parts = Moments.from_parts(moments.count, moments.mean, moments.scatter)
    for copy in (parts, pickle.loads(pickle.dumps(moments))):
        assert copy.count == moments.count
        np.testing.assert_array_equal(copy.mean, moments.mean)
        np.testing.assert_array_equal(copy.scatter, moments.scatter)


def test_what_is_read_cannot_change_the_moments():
    moments = Moments(2).update(np.eye(2))
    moments.scatter[:] = 7
    moments.mean[:] = 7
    np.testing.assert_allclose(moments.mean, [0.5, 0.5])
    assert moments.scatter.max() == pytest.approx(0.5)


@pytest.mark.parametrize("layout", ["whole", "without prefix token"])
def test_extra_memory_does_not_grow_with_the_update(layout):
    tokens = np.ones((2400, 20, 128), np.float32)  # 24 MiB
    tokens = tokens if layout == "whole" else tokens[:, 1:]
    peaks = []
    for n in (1000, 2400):
        moments = Moments(128, precision="float32")
        tracemalloc.start()
        moments.update(tokens[:n])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**21


def test_statistics_run_without_torch():
    code = (
        "import sys, numpy as np, soapworks\n"
        "x = np.random.default_rng(0).standard_normal((9, 2, 2, 4)).astype(np.float16)\n"
        "pca = soapworks.fit_pca(soapworks.Moments(4, precision='float32').update(x))\n"
        "n = soapworks.count_responses(x, pca)\n"
        "s = soapworks.score_components(n, 9, n, 9)\n"
        "soapworks.suppression_weights(s, mu='threshold')\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
