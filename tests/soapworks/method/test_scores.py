import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soapworks.errors import CollapsedFeaturesError, InputError
from soapworks.method.jackknife import score_errors
from soapworks.method.scores import (
    invariant_variance_share,
    rank_components,
    score_components,
    semantic_invariance,
)

quick = settings(max_examples=40, derandomize=True, deadline=None, database=None)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        (0, 0, 1),
        (1, 1, 1),
        (0, 1, 0),
        (0.5, 0.5, 0.70711),
        (0.5, 1, 0.58579),
        (0.9, 0.9, 0.90554),
        (0.9, 0.1, 0.19878),
        (0.7, 0.5, 0.68088),  # 1 / (sqrt(.58) + sqrt(.5))
    ],
)
def test_the_method_s_table_of_values(p, q, expected):
    assert semantic_invariance(p, q) == pytest.approx(expected, abs=5e-6)
    assert semantic_invariance(q, p) == pytest.approx(expected, abs=5e-6)
    assert semantic_invariance(1 - p, 1 - q) == pytest.approx(expected, abs=5e-6)


def test_invariance_is_elementwise_for_arrays_and_tensors():
    p = torch.tensor([[0.0, 0.5], [1.0, 0.5]])
    expected = [[1, 0.7071067811865475], [0, 0.7071067811865475]]
    np.testing.assert_allclose(semantic_invariance(p, np.array([0.0, 0.5])), expected)


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_rates_outside_0_to_1_are_refused(bad):
    with pytest.raises(InputError, match="some of q do not"):
        semantic_invariance(0.5, [0.5, bad])


def test_the_mean_over_positions_is_taken_over_scores():
    # A perfect left/right position code: .7071 if rates were averaged first.
    counts = np.zeros((14, 14, 1), np.int64)
    counts[:, :7] = 100
    assert score_components(counts, 100, counts, 100)[0] == pytest.approx(1)
    # 0.935 when it holds in all but some images.
    rates = np.where(counts > 0, 935, 65)
    p = 0.935
    expected = np.sqrt(p**2 + (1 - p) ** 2)
    assert score_components(rates, 1000, rates, 1000)[0] == pytest.approx(expected)


@quick
@given(st.integers(0, 10**6))
def test_flipping_components_in_both_domains_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    real, synthetic = rng.integers(0, 31, (3, 2, 5)), rng.integers(0, 21, (3, 2, 5))
    flip = rng.random(5) < 0.5
    flipped = np.where(flip, 30 - real, real), np.where(flip, 20 - synthetic, synthetic)
    score = score_components(real, 30, synthetic, 20)
    np.testing.assert_allclose(score_components(flipped[0], 30, flipped[1], 20), score, rtol=1e-14)


@quick
@given(st.integers(1, 29), st.integers(1, 19))
def test_flipping_one_domain_changes_the_score(real, synthetic):
    counts = np.array([[[real]]]), np.array([[[synthetic]]])
    score = score_components(counts[0], 30, counts[1], 20)
    flipped = score_components(30 - counts[0], 30, counts[1], 20)
    same = real * 2 == 30 or synthetic * 2 == 20
    assert np.isclose(score, flipped, rtol=1e-12).item() == same


def test_counts_that_cannot_be_are_refused():
    ones = np.ones((2, 2, 3), int)
    with pytest.raises(InputError, match="0 and 1"):
        score_components(2 * ones, 1, ones, 1)
    with pytest.raises(InputError, match="at least 1 synthetic image"):
        score_components(ones, 1, ones, 0)
    with pytest.raises(InputError, match="alike"):
        score_components(ones, 1, ones[:1], 1)
    with pytest.raises(InputError, match="alike"):
        score_components(ones[0], 1, ones[0], 1)


# Rates per position and component; at p = q = .5 the score is stationary and is left out here.
REAL_RATES = np.array([[[0.8, 0.3, 0.95], [0.7, 0.6, 0.9]]])
SYNTHETIC_RATES = np.array([[[0.6, 0.8, 0.9], [0.9, 0.7, 0.8]]])
REAL_SIZES = np.array([16, 16, 16, 16, 16, 16, 16, 3])
SYNTHETIC_SIZES = np.array([10, 10, 10, 10, 10, 10, 2])


def draw_blocks(rates, sizes, rng):
    """Draw images whose positions respond together half of the time."""
    blocks = []
    for size in sizes:
        shared = rng.random((size, 1, 1, rates.shape[-1]))
        own = rng.random((size, *rates.shape))
        uniform = np.where(rng.random((size, 1, 1, 1)) < 0.5, shared, own)
        blocks.append((uniform < rates).sum(axis=0))
    return np.stack(blocks)


def test_errors_are_the_true_spread_over_samples():
    rng = np.random.default_rng(0)
    scores, variances = [], []
    for _ in range(1500):
        real = draw_blocks(REAL_RATES, REAL_SIZES, rng)
        synthetic = draw_blocks(SYNTHETIC_RATES, SYNTHETIC_SIZES, rng)
        n_real, n_synthetic = REAL_SIZES.sum(), SYNTHETIC_SIZES.sum()
        scores.append(score_components(real.sum(0), n_real, synthetic.sum(0), n_synthetic))
        variances.append(score_errors(real, REAL_SIZES, synthetic, SYNTHETIC_SIZES) ** 2)
    truth = np.var(scores, axis=0, ddof=1)
    # 1500 samples know a variance to 4 %.
    np.testing.assert_allclose(np.mean(variances, axis=0), truth, rtol=0.12)


def test_equal_blocks_give_the_textbook_jackknife():
    rng = np.random.default_rng(1)
    real, synthetic = rng.integers(0, 9, (6, 2, 3, 4)), rng.integers(0, 9, (5, 2, 3, 4))

    def score(a, b):
        return score_components(a.sum(0), 8 * len(a), b.sum(0), 8 * len(b))

    expected = np.zeros(4)
    for blocks, estimate in (
        (real, lambda kept: score(kept, synthetic)),
        (synthetic, lambda kept: score(real, kept)),
    ):
        g = len(blocks)
        left_out = np.array([estimate(np.delete(blocks, j, axis=0)) for j in range(g)])
        expected += (g - 1) / g * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    errors = score_errors(real, np.full(6, 8), synthetic, np.full(5, 8))
    np.testing.assert_allclose(errors, np.sqrt(expected), rtol=1e-12)


def test_unequal_blocks_give_the_delete_m_jackknife():
    """Against the variance of Busing et al. (1999), equation by equation, for one domain."""
    rng = np.random.default_rng(2)
    sizes = [8, 8, 5, 1]
    real = np.stack([rng.integers(0, m + 1, (2, 3, 4)) for m in sizes])
    synthetic = np.tile(rng.integers(0, 9, (1, 2, 3, 4)), (2, 1, 1, 1))  # alike: no variance
    n, g = sum(sizes), len(sizes)

    def score(counts, n_images):
        return score_components(counts, n_images, synthetic[0], 8)

    whole = score(real.sum(0), n)
    without = [score(real.sum(0) - real[j], n - m) for j, m in enumerate(sizes)]
    estimate = g * whole - sum((1 - m / n) * w for m, w in zip(sizes, without, strict=True))
    variance = 0
    for m, w in zip(sizes, without, strict=True):
        h = n / m
        variance = variance + (h * whole - (h - 1) * w - estimate) ** 2 / (h - 1) / g
    errors = score_errors(real, sizes, synthetic, [8, 8])
    np.testing.assert_allclose(errors, np.sqrt(variance), rtol=1e-12)


def test_a_component_without_any_spread_has_no_error():
    counts = np.full((4, 2, 2, 1), 8)
    assert score_errors(counts, [8] * 4, counts, [8] * 4) == pytest.approx(0)


@pytest.mark.parametrize("single", ["real", "synthetic"])
def test_a_single_block_tells_nothing(single):
    many, one = np.ones((3, 1, 1, 2), int), np.ones((1, 1, 1, 2), int)
    blocks = (one, [4], many, [4] * 3) if single == "real" else (many, [4] * 3, one, [4])
    assert np.isnan(score_errors(*blocks)).all()


def test_blocks_that_cannot_be_are_refused():
    counts = np.ones((2, 1, 1, 3), int)
    with pytest.raises(InputError, match=r"sizes \(B,\)"):
        score_errors(counts, [4], counts, [4, 4])
    with pytest.raises(InputError, match="synthetic images is empty"):
        score_errors(counts, [4, 4], counts, [4, 0])
    with pytest.raises(InputError, match="exceeds the size"):
        score_errors(5 * counts, [5, 4], counts, [4, 4])
    with pytest.raises(InputError, match="same positions"):
        score_errors(counts, [4, 4], counts[..., :2], [4, 4])


def test_share_of_variance_in_invariant_components():
    share = invariant_variance_share([0.9, 0.75, 0.2, 0.8], [4, 3, 2, 1])
    assert share == pytest.approx(0.5)  # .75 itself is not above
    assert invariant_variance_share([0.9, 0.75], [4, 3], threshold=0.7) == 1
    assert invariant_variance_share([0.9], [0]) == 0
    with pytest.raises(InputError, match="as many"):
        invariant_variance_share([0.9], [1, 2])
    with pytest.raises(InputError, match="at least 0"):
        invariant_variance_share([0.9, 0.1], [1, -2])


def test_ranks_go_by_descending_score_and_ties_by_index():
    np.testing.assert_array_equal(rank_components([0.2, 0.9, 0.2, 0.9, 0.5]), [3, 0, 4, 1, 2])


@quick
@given(st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.9]), min_size=1, max_size=40))
def test_ranks_agree_with_counting(scores):
    expected = [
        sum(other > s or (other == s and j < i) for j, other in enumerate(scores))
        for i, s in enumerate(scores)
    ]
    np.testing.assert_array_equal(rank_components(np.array(scores)), expected)


def test_components_without_a_score_rank_last_by_index():
    np.testing.assert_array_equal(rank_components([np.nan, 0.2, np.nan, 0.9]), [2, 1, 3, 0])


def test_components_without_a_score_are_not_above_the_threshold():
    assert invariant_variance_share([0.9, np.nan, 0.2], [1, 3, 0]) == 0.25


@pytest.mark.parametrize("score", [-0.1, 1.1, np.inf])
def test_scores_that_cannot_be_are_refused(score):
    with pytest.raises(InputError, match="within 0 and 1, and that of component 1"):
        rank_components([0.5, score])


def test_a_component_without_variance_has_no_score():
    counts = np.array([[[3, 0, 5]], [[2, 0, 4]]])
    variance = [2.0, 0.0, 1e-300]
    plain = score_components(counts, 8, counts, 8)
    found = score_components(counts, 8, counts, 8, explained_variance=variance)
    np.testing.assert_array_equal(found, [plain[0], np.nan, plain[2]])
    blocks = np.stack([counts, counts])
    errors = score_errors(blocks, [8, 8], blocks, [8, 8], explained_variance=variance)
    np.testing.assert_array_equal(np.isnan(errors), [False, True, False])


def test_features_without_any_variance_are_an_error():
    counts = np.zeros((2, 2, 3), int)
    with pytest.raises(CollapsedFeaturesError, match="none of 3 components"):
        score_components(counts, 4, counts, 4, explained_variance=np.zeros(3))
    with pytest.raises(InputError, match="3 scores need as many"):
        score_components(counts, 4, counts, 4, explained_variance=[1, 2])
    with pytest.raises(InputError, match="at least 0"):
        score_components(counts, 4, counts, 4, explained_variance=[1, np.nan, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1])
def test_counts_that_are_no_counts_are_refused(bad):
    counts, ones = np.array([[[bad]]]), np.array([[[1]]])
    with pytest.raises(InputError, match="must lie within 0 and 4"):
        score_components(counts, 4, ones, 4)
    with pytest.raises(InputError, match="exceeds the size"):
        score_errors(ones[None], [4], counts[None], [4])


def test_scores_are_one_number_per_component():
    with pytest.raises(InputError, match="one number per component"):
        rank_components([[0.5]])
