"""Nearest neighbours, votes and measures against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from soapworks.errors import InputError
from soapworks.evaluation import neighbours
from soapworks.evaluation.neighbours import (
    SegmentationTotals,
    nearest_neighbours,
    retrieve,
    vote,
)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_are_the_exact_ones(distance, k, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 8 * 40 * 7)  # seven queries at a time
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((40, 6)), rng.standard_normal((23, 6))
    expected = NearestNeighbors(n_neighbors=k, metric=distance, algorithm="brute").fit(bank)
    found = nearest_neighbours(queries, bank, k, distance=distance)
    np.testing.assert_array_equal(found, expected.kneighbors(queries, return_distance=False))


def test_of_equal_entries_the_lower_comes_first():
    bank = np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    assert nearest_neighbours([[1.0, 0]], bank, 2).tolist() == [[0, 2]]


def test_votes_are_those_of_another_library():
    rng = np.random.default_rng(1)
    bank, queries = rng.standard_normal((60, 4)), rng.standard_normal((30, 4))
    labels = rng.integers(3, 5, 60)  # two labels and an odd k: no ties
    expected = KNeighborsClassifier(5).fit(bank, labels).predict(queries)
    found = vote(labels, nearest_neighbours(queries, bank, 5, distance="euclidean"))
    np.testing.assert_array_equal(found, expected)


def test_a_tie_goes_to_the_nearest():
    assert vote([1, 2, 2, 1], [[0, 1, 2, 3], [1, 0, 3, 2]]).tolist() == [1, 2]


def test_segmentation_over_a_set_is_that_of_all_its_pixels():
    rng = np.random.default_rng(2)
    totals, true, found = SegmentationTotals(ignore=(0,)), [], []
    for shape in ((5, 7), (9, 4)):
        truth, prediction = rng.integers(0, 4, shape), rng.integers(0, 5, shape)
        totals.add(prediction, truth)
        true.append(truth[truth > 0])
        found.append(prediction[truth > 0])
    true, found = np.concatenate(true), np.concatenate(found)
    result = totals.result()
    expected = sklearn.metrics.jaccard_score(true, found, labels=[1, 2, 3], average=None)
    assert list(result.class_iou.values()) == pytest.approx(expected)
    assert result.mean_iou == pytest.approx(expected.mean())
    assert result.pixel_accuracy == pytest.approx((true == found).mean())


def test_retrieval_is_that_of_another_library():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 30)
    embeddings = rng.standard_normal((30, 8)) + 2 * np.eye(8)[labels]
    found = retrieve(embeddings, labels)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for image in range(30):
        others = np.arange(30) != image
        same = labels[others] == labels[image]
        expected = sklearn.metrics.average_precision_score(same, cosine[image, others])
        assert found.average_precision[image] == pytest.approx(expected)
        assert found.top_1[image] == same[cosine[image, others].argmax()]


def test_an_image_without_others_of_its_label_has_no_precision():
    found = retrieve([[1, 0], [1, 0.1], [0, 1]], list("aab"))
    assert np.isnan(found.average_precision).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_neighbours([[1.0]], [[1.0]], 2), "k = 2"),
        (lambda: nearest_neighbours([[1.0]], [[1.0, 2]], 1), "channels"),
        (lambda: nearest_neighbours([[0.0]], [[1.0]], 1), "length 0"),
        (lambda: nearest_neighbours([[np.inf]], [[1.0]], 1), "infinity"),
        (lambda: nearest_neighbours([[1.0]], np.zeros((0, 1)), 1), "one or more"),
        (lambda: nearest_neighbours([[1.0]], [[1.0]], 1, distance="l1"), "cosine or"),
        (lambda: SegmentationTotals().result(), "no pixel"),
        (lambda: SegmentationTotals().add([[1]], [[1, 2]]), "shape"),
        (lambda: SegmentationTotals().add([[1.0]], [[1]]), "integers"),
        (lambda: retrieve([[1.0], [2]], ["a"]), "label to each"),
        (lambda: retrieve([[1.0], [2]], ["a", "a"]), "same label"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
