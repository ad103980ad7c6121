"""kNN segmentation: votes of training patches, and measures over all pixels of the set."""

import pickle

import numpy as np
import pytest
import sklearn.metrics
from sklearn.neighbors import KNeighborsClassifier

from soapworks.errors import InputError
from soapworks.evaluation.labelled import read_label_maps
from soapworks.evaluation.summaries import Values
from soapworks.evaluation.tasks import KnnSegmentation, evaluate
from soapworks.evaluation.tasks.geometry import patch_labels
from tests.soapworks.evaluation.tasks.made_up import MODEL, colours, squares, write


@pytest.fixture
def sets(tmp_path):
    squares(tmp_path / "train", n=4, labels="labels", values=(3, 5), seed=1)
    squares(tmp_path / "val", n=3, labels="labels", values=(3, 5), seed=2)
    return tmp_path


def test_classes_of_colours_are_found(sets):
    task = KnnSegmentation(k=3)
    data, train = read_label_maps(sets / "val"), read_label_maps(sets / "train")
    values = Values.of_rows(evaluate(task.on(data, MODEL, train=train), colours))
    assert values.classes() == ["0", "3", "5"]
    assert [values.summarise(measure) for measure in task.measures] == [1, 1]


def test_measures_are_those_of_another_library_over_all_pixels(sets):
    rng = np.random.default_rng(0)
    noise = {}

    def noisy(image):
        key = image.tobytes()
        noise.setdefault(key, rng.normal(0, 0.4, (8, 8, 4)))
        return colours(image) + noise[key]

    data, train = read_label_maps(sets / "val"), read_label_maps(sets / "train", ignore=[])
    write(sets / "val/labels/0.png", np.where(np.arange(32) < 9, 255, data.label_map(0)))
    data = read_label_maps(sets / "val")
    task = KnnSegmentation(k=5, distance="euclidean", patches_per_image=None)
    evaluation = task.on(data, MODEL, train=train)
    values = Values.of_rows(evaluate(evaluation, noisy))
    bank = np.concatenate([noisy(evaluation.inputs(n)[0]).reshape(64, 4) for n in range(4)])
    of_bank = np.concatenate([train.label_map(n)[2::4, 2::4].ravel() for n in range(4)])
    near = KNeighborsClassifier(5).fit(bank.astype(np.float32), of_bank)
    found, true = [], []
    for number in range(3):
        tokens = noisy(evaluation.inputs(4 + number)[0]).reshape(64, 4)
        neighbours = near.kneighbors(tokens, return_distance=False)
        votes = []
        for row in of_bank[neighbours].tolist():  # among equals as the nearest of them
            votes.append(max(row, key=lambda label: (row.count(label), -row.index(label))))
        found.append(np.kron(np.reshape(votes, (8, 8)), np.ones((4, 4), int)).ravel())
        true.append(data.label_map(number).ravel())
    found, true = np.concatenate(found), np.concatenate(true)
    counted = true != 255
    iou = sklearn.metrics.jaccard_score(
        true[counted], found[counted], labels=[0, 3, 5], average="macro"
    )
    assert 0.1 < iou < 0.9
    assert values.summarise(task.measures[0]) == pytest.approx(iou, rel=1e-12)
    assert values.summarise(task.measures[1]) == pytest.approx((true == found)[counted].mean())


def test_a_patch_has_the_label_of_most_of_its_pixels_whatever_the_size():
    rng = np.random.default_rng(0)
    label_map, grid = rng.integers(0, 4, (13, 22)), (3, 5)
    found, counted = patch_labels(label_map, grid, ignore=(0,))
    for row in range(3):
        for column in range(5):
            inside = [
                label_map[i, j]
                for i in range(13)
                for j in range(22)
                if int((i + 0.5) / 13 * 3) == row and int((j + 0.5) / 22 * 5) == column
            ]
            votes = np.bincount(inside, minlength=4)
            votes[0] = 0
            assert found[row, column] == votes.argmax()
            assert counted[row, column]


def test_patches_drawn_are_seeded_bounded_and_count(sets):
    data, train = read_label_maps(sets / "val"), read_label_maps(sets / "train", ignore=[0])
    data = read_label_maps(sets / "val", ignore=[0])
    tokens = np.random.default_rng(0).standard_normal((8, 8, 4))
    kept = [
        KnnSegmentation(patches_per_image=4, seed=seed).on(data, MODEL, train=train)
        for seed in (0, 0, 1)
    ]
    banks = [evaluation.keep(2, [tokens]) for evaluation in kept]
    assert banks[0]["labels"].tolist() == [3] * 4  # nothing of the ignored background
    np.testing.assert_array_equal(banks[0]["tokens"], banks[1]["tokens"])
    assert (banks[0]["tokens"] != banks[2]["tokens"]).any()
    assert kept[0].reference_bytes(4) == 4 * 4 * (4 * 4 + 8)


def test_units_may_be_judged_anywhere(sets):
    data, train = read_label_maps(sets / "val"), read_label_maps(sets / "train")
    evaluation = KnnSegmentation().on(data, MODEL, train=train)
    other = pickle.loads(pickle.dumps(evaluation))
    assert other.digest == evaluation.digest != data.digest
    assert evaluate(other, colours) == evaluate(evaluation, colours)
    assert (evaluation.n_references, evaluation.n_units, evaluation.n_images) == (4, 7, 3)


def test_sets_that_cannot_be_right_are_refused(sets):
    data, train = read_label_maps(sets / "val"), read_label_maps(sets / "train")
    task = KnnSegmentation()
    with pytest.raises(InputError, match="4 of 4 validation images are training images too"):
        task.on(train, MODEL, train=train)
    with pytest.raises(InputError, match="hold one class only, 3"):
        task.on(data, MODEL, train=read_label_maps(sets / "train", ignore=[0, 5]))
    squares(sets / "other", n=1, labels="labels", values=(3, 3), seed=7)
    other = read_label_maps(sets / "other")
    with pytest.raises(InputError, match=r"labels that no training map has \(5\)"):
        task.on(data, MODEL, train=other)
    with pytest.raises(InputError, match="k = 300, and the training images have 256"):
        evaluate(KnnSegmentation(k=300).on(data, MODEL, train=train), colours)
    with pytest.raises(InputError, match="references, which are missing"):
        task.on(data, MODEL, train=train).keep(4, [np.ones((8, 8, 4))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k = 0"),
        ({"distance": "l1"}, "cosine or euclidean"),
        ({"patches_per_image": 0}, "patches_per_image = 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        KnnSegmentation(**settings)
