import numpy as np
import pytest
import scipy.stats

from soapworks.errors import InputError
from soapworks.evaluation import compare, compare_each


def test_the_interval_is_that_of_another_library():
    rng = np.random.default_rng(0)
    raw = rng.random(60)
    head = raw + rng.normal(0.05, 0.1, 60)
    found = compare(raw, head)
    other = scipy.stats.bootstrap(
        (head - raw,), np.mean, method="percentile", rng=1, n_resamples=20000
    ).confidence_interval
    assert found.difference == pytest.approx((head - raw).mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(other), abs=2e-3)


def test_coverage_is_near_what_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for number in range(200):
        differences = rng.normal(0.3, 1, 40)
        found = compare(np.zeros(40), differences, seed=number)
        covered += found.low <= 0.3 <= found.high
    # 95 %, a percentile interval of 40 covers a little less; four standard errors around .94.
    assert 0.87 <= covered / 200 <= 0.995


def test_verdicts():
    noise = np.random.default_rng(1).normal(0, 0.02, 50)
    assert compare(noise * 0, noise + 0.1).verdict == "helps"
    assert compare(noise * 0, noise - 0.1).verdict == "hurts"
    assert compare(noise * 0, noise - noise.mean()).verdict == "cannot be told"


def test_images_of_one_group_are_not_independent():
    rng = np.random.default_rng(4)
    of_group = rng.normal(0.05, 0.2, 12)
    many = np.repeat(of_group, 30) + rng.normal(0, 0.01, 360)
    groups = np.repeat(np.arange(12), 30)
    apart = compare(np.zeros(360), many)
    together = compare(np.zeros(360), many, groups=groups)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(
        np.sqrt(30), rel=0.15
    )
    assert together.n_groups == 12


def test_the_number_of_images_needed_is_the_normal_one():
    differences = np.random.default_rng(5).normal(0.1, 0.5, 400)
    expected = (1.96 * differences.std() / (differences.mean() / 2)) ** 2
    assert compare(np.zeros(400), differences).n_needed == pytest.approx(expected, rel=0.05)


def test_bad_input_is_refused():
    for raw, head, message in (
        ([1, 2], [1, 2, 3], "equal length"),
        ([1], [2], "2 independent"),
        ([1, np.nan], [1, 2], "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            compare(raw, head)
    with pytest.raises(InputError, match="groups"):
        compare([1, 2], [1, 2], groups=[1])


def test_pairs_compared_together_are_compared_as_each_alone() -> None:
    rng = np.random.default_rng(5)
    raw, head = rng.random((3, 40)), rng.random((3, 40))
    groups = rng.integers(0, 12, 40)
    together = compare_each(raw, head, groups=groups)
    for one, before, after in zip(together, raw, head, strict=True):
        alone = compare(before, after, groups=groups)
        assert (one.low, one.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
        assert (one.difference, one.n_groups) == (alone.difference, alone.n_groups)
