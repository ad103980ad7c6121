"""Retrieval by pooled tokens, and tasks as settings."""

import json

import numpy as np
import pytest
import sklearn.metrics

from soapworks.errors import InputError
from soapworks.evaluation.labelled import read_classes
from soapworks.evaluation.summaries import Values
from soapworks.evaluation.tasks import TASKS, Retrieval, evaluate, task_from
from tests.soapworks.evaluation.tasks.made_up import MODEL, colours, write


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, n in (("cat", 4), ("dog", 3), ("owl", 1)):
        for number in range(n):
            write(tmp_path / f"{name}/{number}.png", rng.integers(0, 256, (40, 32, 3)))
    return tmp_path


def test_values_are_those_of_another_library(folder):
    data = read_classes(folder)
    task = Retrieval()
    evaluation = task.on(data, MODEL)
    values = Values.of_rows(evaluate(evaluation, colours))
    pooled = np.stack([colours(evaluation.inputs(n)[0]).mean(axis=(0, 1)) for n in range(8)])
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    names = np.array(data.labels)
    for image in range(7):
        others = np.arange(8) != image
        expected = sklearn.metrics.average_precision_score(
            names[others] == names[image], (unit @ unit[image])[others]
        )
        assert values.column("average precision")[image] == pytest.approx(expected)
    assert values.images.tolist() == list(range(7))  # the owl is alone: a distractor


def test_images_or_classes_are_drawn_for_intervals(folder):
    data = read_classes(folder)
    for independent, n_groups in (("images", 7), ("classes", 2)):
        task = Retrieval(independent=independent)
        rows = evaluate(task.on(data, MODEL), colours)
        assert len({row.group for row in rows}) == n_groups


def test_classes_of_one_image_each_are_refused(tmp_path):
    for name in "ab":
        write(tmp_path / name / "0.png", np.full((8, 8, 3), ord(name)))
    with pytest.raises(InputError, match=r"no class .* has two images"):
        Retrieval().on(read_classes(tmp_path), MODEL)
    with pytest.raises(InputError, match="images or classes"):
        Retrieval(independent="labels")


@pytest.mark.parametrize("name", TASKS)
def test_settings_go_through_json(name):
    task = TASKS[name]()
    assert task_from(name, json.loads(json.dumps(task.settings()))) == task


def test_unknown_tasks_and_settings_are_refused():
    with pytest.raises(InputError, match="no task 'depth'; there are saliency, knn-segmentation"):
        task_from("depth", {})
    with pytest.raises(InputError, match="retrieval has no setting 'k'"):
        task_from("retrieval", {"k": 3})
