import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soapworks.errors import InputError, PrecisionError
from soapworks.method import _device_responses, _tokens, responses
from soapworks.method.moments import Moments
from soapworks.method.pca import Pca, fit_pca
from soapworks.method.responses import count_responses

quick = settings(max_examples=20, derandomize=True, deadline=None, database=None)


def make_tokens(shape=(20, 3, 4, 10), seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal(shape) * np.geomspace(10, 0.01, shape[-1])
    return (tokens + rng.uniform(-300, 300, shape[-1])).astype(np.float32)


def make_pca(tokens):
    return fit_pca(Moments(tokens.shape[-1]).update(tokens))


def naive(tokens, pca):
    """Count with three loops in float64."""
    n, n_rows, n_columns, d = tokens.shape
    counts = np.zeros((n_rows, n_columns, d), np.int64)
    for i in range(n):
        for r in range(n_rows):
            for c in range(n_columns):
                token = tokens[i, r, c].astype(np.float64)
                counts[r, c] += np.sum((token - pca.mean) * pca.components, axis=1) > 0
    return counts


def test_counts_are_those_of_a_naive_loop():
    tokens = make_tokens()
    counts = count_responses(tokens, make_pca(tokens))
    np.testing.assert_array_equal(counts, naive(tokens, make_pca(tokens)))
    assert counts.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_counts_are_exact_for_every_dtype(dtype, kind):
    tokens = make_tokens().astype(dtype)
    pca = make_pca(tokens.astype(np.float64))
    given_tokens = tokens if kind == "numpy" else torch.from_numpy(tokens).requires_grad_()
    np.testing.assert_array_equal(count_responses(given_tokens, pca), naive(tokens, pca))


def test_bfloat16_tensors_are_welcome():
    tokens = torch.from_numpy(make_tokens()).bfloat16()
    wide = tokens.double().numpy()
    np.testing.assert_array_equal(
        count_responses(tokens, make_pca(wide)), naive(wide, make_pca(wide))
    )


def test_responses_that_float32_cannot_tell_from_zero_are_decided_in_float64():
    # Along the second component all responses are 1e-8 of the first's: lost in float32.
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    latent = rng.standard_normal((40, 2, 2, 6)) * np.array([1e3, 1e-5, 1, 1, 1, 1])
    tokens = latent @ turn
    pca = Pca(np.zeros(6), turn, np.ones(6), 160)
    expected = (latent > 0).sum(axis=0)
    np.testing.assert_array_equal(count_responses(tokens, pca), expected)
    assert (count_responses(tokens, pca, precision="float32") != expected).any()


def test_single_close_responses_are_decided_in_float64():
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    latent = rng.standard_normal((300, 2, 2, 32)) * 10
    close = rng.random(latent.shape) < 0.003
    latent[close] = np.where(rng.random(close.sum()) < 0.5, 1, -1) * 1e-8
    tokens = latent @ turn
    pca = Pca(np.zeros(32), turn, np.ones(32), 1200)
    np.testing.assert_array_equal(count_responses(tokens, pca), (latent > 0).sum(axis=0))
    device = _device_responses.DeviceResponses(pca, torch.device("cpu"), exact=True)
    np.testing.assert_array_equal(device.count(torch.from_numpy(tokens)), (latent > 0).sum(axis=0))


def test_a_mean_beyond_float32_is_not_rounded():
    mean = np.array([1e4 + 1e-5, 1e4 + 1e-5, -3.0])  # float32 steps are 1e-3 there
    tokens = np.full((3, 1, 1, 3), [1e4 + 2e-5, 1e4 + 5e-6, -3.0 - 1e-9])
    pca = Pca(mean, np.eye(3), np.ones(3), 9)
    np.testing.assert_array_equal(count_responses(tokens, pca)[0, 0], [3, 0, 0])
    device = _device_responses.DeviceResponses(pca, torch.device("cpu"), exact=True)
    np.testing.assert_array_equal(device.count(torch.from_numpy(tokens))[0, 0], [3, 0, 0])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("n_zero", [1, 90], ids=["one token", "most tokens"])
def test_a_response_of_zero_is_not_positive(precision, n_zero):
    tokens = np.random.default_rng(0).uniform(2, 3, (100, 1, 1, 8)).astype(np.float32)
    tokens[:n_zero] = 1
    pca = Pca(np.ones(8), np.eye(8), np.ones(8), 9)
    counts = count_responses(tokens, pca, precision=precision)
    np.testing.assert_array_equal(counts, np.full((1, 1, 8), 100 - n_zero))


def test_images_are_centred_with_the_mean_of_the_pca():
    tokens = make_tokens()
    shifted = Pca(np.full(10, 1e6), np.eye(10), np.ones(10), 9)
    assert not count_responses(tokens, shifted).any()


@quick
@given(cuts=st.lists(st.integers(0, 20), max_size=4), order=st.permutations(range(20)))
def test_counts_of_parts_in_any_order_add_up(cuts, order):
    tokens = make_tokens()
    pca = make_pca(tokens)
    parts = np.split(tokens[np.array(order)], sorted(cuts))
    total = sum(count_responses(part, pca) for part in parts)
    np.testing.assert_array_equal(total, count_responses(tokens, pca))


@pytest.mark.parametrize("limit", [64, 3, 30])
def test_blocks_of_images_and_of_grid_rows_give_the_same(limit, monkeypatch):
    tokens = make_tokens()
    pca = make_pca(tokens)
    expected = naive(tokens, pca)
    monkeypatch.setattr(responses, "block_rows", lambda n_channels: limit)
    for layout in (tokens, np.asfortranarray(tokens), torch.from_numpy(tokens)):
        np.testing.assert_array_equal(count_responses(layout, pca), expected)


def test_many_images_do_not_overflow_the_short_counters():
    tokens = np.ones((1000, 1, 1, 2), np.float32)
    counts = count_responses(tokens, Pca(np.zeros(2), np.eye(2), np.ones(2), 9))
    np.testing.assert_array_equal(counts, 1000)


def test_a_flip_of_a_component_turns_its_counts_over():
    tokens = make_tokens()
    pca = make_pca(tokens)
    flipped = Pca(pca.mean, -pca.components, pca.explained_variance, pca.count)
    total = count_responses(tokens, pca) + count_responses(tokens, flipped)
    np.testing.assert_array_equal(total, len(tokens))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_the_device_path_gives_the_same(exact, dtype):
    tokens = torch.from_numpy(make_tokens((60, 3, 4, 10))).to(dtype)
    tokens[0, 0, 0] = tokens[1, 0, 0]
    pca = make_pca(tokens)
    device = _device_responses.DeviceResponses(pca, torch.device("cpu"), exact=exact)
    with torch.autocast("cpu", torch.bfloat16):
        counts = device.count(tokens)
    expected = naive(tokens.double().numpy(), pca)
    if exact:
        np.testing.assert_array_equal(counts, expected)
    else:
        assert np.abs(counts - expected).max() <= 1


def test_the_device_path_decides_whole_components_in_float64():
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    latent = rng.standard_normal((90, 2, 2, 64))
    latent[..., 0] *= 1e-8
    pca = Pca(np.zeros(64), turn, np.ones(64), 160)
    device = _device_responses.DeviceResponses(pca, torch.device("cpu"), exact=True)
    counts = device.count(torch.from_numpy(latent @ turn))
    np.testing.assert_array_equal(counts, (latent > 0).sum(axis=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_counted_there():
    tokens = make_tokens()
    pca = make_pca(tokens)
    counts = count_responses(torch.from_numpy(tokens).cuda(), pca)
    np.testing.assert_array_equal(counts, naive(tokens, pca))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad):
    tokens = make_tokens()
    pca = make_pca(tokens)
    tokens[3, 1, 1, 2] = bad
    with pytest.raises(PrecisionError, match="NaN, infinity"):
        count_responses(tokens, pca)
    device = _device_responses.DeviceResponses(pca, torch.device("cpu"), exact=True)
    with pytest.raises(PrecisionError, match="NaN, infinity"):
        device.count(torch.from_numpy(tokens))


def test_what_does_not_fit_is_refused():
    tokens = make_tokens()
    pca = make_pca(tokens)
    with pytest.raises(InputError, match=r"\(image, row, column, channel\)"):
        count_responses(tokens[0], pca)
    with pytest.raises(InputError, match=r"have 9 channels.* 10 channels"):
        count_responses(tokens[..., 1:], pca)
    with pytest.raises(InputError, match="precision"):
        count_responses(tokens, pca, precision="float16")


def test_no_images_give_no_counts():
    tokens = make_tokens()
    assert not count_responses(tokens[:0], make_pca(tokens)).any()


def test_extra_memory_does_not_grow_with_the_images(monkeypatch):
    monkeypatch.setattr(_tokens, "MAX_BLOCK_ROWS", 512)
    tokens = np.random.default_rng(0).standard_normal((2000, 4, 4, 32)).astype(np.float32)
    pca = make_pca(tokens)
    peaks = []
    for n in (500, 2000):
        tracemalloc.start()
        count_responses(tokens[:n], pca)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2**20
