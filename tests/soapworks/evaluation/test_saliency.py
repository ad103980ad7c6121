"""TokenCut, the bilateral solver and the measures against the published implementation."""

from pathlib import Path

import numpy as np
import pytest

from soapworks.errors import InputError
from soapworks.evaluation import (
    bilateral_solver,
    intersection_over_union,
    max_f_measure,
    pixel_accuracy,
    tokencut,
)
from soapworks.evaluation.measures import f_curve

CASES = sorted((Path(__file__).parents[2] / "conformance").glob("salient_*.npz"))


class Case:
    def __init__(self, path, seed):
        with np.load(path) as file:
            data = dict(file)
        self.grid = tuple(data["grid"])
        self.features = data["features"].reshape(*self.grid, -1)
        self.guide = data["guide"].reshape(self.grid)
        self.image, self.truth = data["image"], data["truth"]
        self.expected = {
            name.removeprefix(f"{seed}_"): value
            for name, value in data.items()
            if name.startswith(f"{seed}_")
        }
        self.found = tokencut(self.features, self.truth.shape, seed=seed, guide=self.guide)


@pytest.fixture(
    params=[(path, seed) for path in CASES for seed in ("vmax", "guided")],
    ids=lambda parameter: f"{parameter[0].stem}-{parameter[1]}",
)
def case(request):
    return Case(*request.param)


def test_there_are_cases():
    assert len(CASES) == 2


def test_masks_agree_exactly(case):
    np.testing.assert_array_equal(case.found.mask, case.expected["mask"])


def test_the_seed_agrees_but_for_equal_entries(case):
    # Patches with the same neighbours have equal entries; rounding chose among them there.
    magnitude = np.abs(case.found.eigenvector.ravel())
    expected = int(case.expected["seed"])
    assert case.found.seed_patch == expected or magnitude[expected] == pytest.approx(
        magnitude[case.found.seed_patch], rel=1e-9
    )


def test_guided_seeds_agree_exactly():
    for path in CASES:
        case = Case(path, "guided")
        assert case.found.seed_patch == case.expected["seed"]


def test_the_solver_agrees(case):
    refined = bilateral_solver(case.image, case.found.mask)
    np.testing.assert_allclose(refined.values, case.expected["solver"], atol=1e-3)
    np.testing.assert_array_equal(refined.mask, case.expected["solver_binary"])


def test_measures_agree(case):
    for prediction, name in (("mask", "metrics"), ("solver", "solver_metrics")):
        values, truth = case.expected[prediction], case.truth
        measured = (
            max_f_measure([(values, truth)]),
            intersection_over_union(values, truth),
            pixel_accuracy(values, truth),
        )
        np.testing.assert_allclose(measured, case.expected[name], atol=1e-6)


def test_the_f_curve_is_that_of_a_naive_loop():
    rng = np.random.default_rng(0)
    values, truth = rng.random((7, 9)), rng.random((7, 9)) > 0.6
    for place, limit in enumerate(np.linspace(0, 1 - 1e-10, 255)):
        found = values >= limit
        right = (found & truth).sum()
        precision, recall = right / max(found.sum(), 1), right / truth.sum()
        below = 0.3 * precision + recall
        f = 1.3 * precision * recall / below if below else 0
        assert f_curve(values, truth)[place] == pytest.approx(f, abs=1e-12)


def test_the_maximum_is_over_the_mean_curve_not_the_mean_of_maxima():
    truth = np.array([[1, 0]])
    dark, bright = np.array([[0.2, 0.1]]), np.array([[0.9, 0.8]])
    assert max_f_measure([(dark, truth)]) == max_f_measure([(bright, truth)]) == 1
    assert max_f_measure([(dark, truth), (bright, truth)]) < 1


def test_ties_take_the_first_patch_whatever_the_order_of_rounding():
    features = np.zeros((3, 6, 2))
    features[..., 0] = 1
    features[1, 2:4] = [0, 1]
    turned = features[::-1, ::-1]
    assert tokencut(features, (3, 6)).mask.sum() == tokencut(turned, (3, 6)).mask.sum()
    vector = np.abs(tokencut(features, (3, 6)).eigenvector.ravel())
    first = int(np.flatnonzero(np.isclose(vector, vector.max(), rtol=1e-9))[0])
    assert tokencut(features, (3, 6)).seed_patch == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((3, 4))}, "row, column, channel"),
        ({"features": np.zeros((3, 4, 2))}, "length 0"),
        ({"features": np.full((3, 4, 2), np.nan)}, "NaN"),
        ({"seed": "guided"}, "guide"),
        ({"seed": "guided", "guide": np.zeros((4, 3))}, "shape"),
        ({"seed": "best"}, "vmax or guided"),
        ({"image_size": (0, 4)}, "1 pixel"),
    ],
)
def test_bad_input_is_one_sentence(change, message):
    arguments = {"features": np.ones((3, 4, 2)), "image_size": (6, 8), **change}
    with pytest.raises(InputError, match=message):
        tokencut(**arguments)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([[0, 1]], [[0, 1, 1]], "same image"),
        ([[0, 255]], [[0, 1]], "scale it"),
        ([[0, 1]], [[0, 255]], "binary"),
        ([[0, np.nan]], [[0, 1]], "scale it"),
    ],
)
def test_masks_that_do_not_fit_are_refused(prediction, truth, message):
    with pytest.raises(InputError, match=message):
        intersection_over_union(prediction, truth)


def test_an_object_of_more_than_half_the_image_is_no_background():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 8:] = 255
    mask = np.zeros((32, 32), bool)
    mask[:, 8:] = True
    np.testing.assert_array_equal(bilateral_solver(image, mask).mask, mask)
