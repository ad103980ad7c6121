"""The bound of float16's rounding error holds for errors that are measured."""

import numpy as np
import pytest

from soapworks.method.rounding import channel_shares, component_shares, rounding_error


def tokens(mean: float, scale: float, n: int = 4000, d: int = 6) -> np.ndarray:
    return mean + scale * np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("mean", [0.0, 1.0, 30.0, 300.0, 5000.0])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 100.0])
def test_measured_errors_stay_within_the_bound(mean: float, scale: float) -> None:
    values = tokens(mean, scale).astype(np.float64)
    measured = ((values.astype(np.float16).astype(np.float64) - values) ** 2).mean(0)
    bound = rounding_error((values**2).mean(0))
    # Errors spread evenly over a step have a third of the largest square; at worst all are largest.
    assert (measured <= (1.1 if scale > 2e-3 * mean else 3.1) * bound).all()


def test_shares_are_of_the_size_of_measured_ones() -> None:
    values = tokens(3000.0, 1.0).astype(np.float64)
    rounded = values.astype(np.float16).astype(np.float64)
    measured = (rounded - values).var(0) / values.var(0)
    shares = channel_shares(values.mean(0), values.var(0))
    assert (measured < shares).all()
    assert (shares < 4 * measured).all()


def test_zeros_have_no_error_and_other_constants_an_infinite_one() -> None:
    shares = channel_shares(np.array([0.0, 0.3, np.nan]), np.zeros(3))
    assert list(shares) == [0, np.inf, np.inf]


def test_a_small_component_among_large_channels_is_found() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))
    covariance = turn @ np.diag([1e-6, 1.0, 2.0, 3.0]) @ turn.T
    shares = component_shares(np.zeros(4), covariance)
    assert shares[0] > 1e-2
    assert (shares[1:] < 1e-6).all()


def test_a_component_without_variance_is_left_out() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))
    covariance = turn @ np.diag([1e-14, 1.0, 2.0, 3.0]) @ turn.T
    assert component_shares(np.zeros(4), covariance)[0] == 0
