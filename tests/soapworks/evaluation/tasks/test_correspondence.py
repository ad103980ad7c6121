"""Shifted crops of photographs: pairs are seeded, and what tokens know is measured."""

import numpy as np
import pytest

from soapworks.errors import InputError
from soapworks.evaluation.labelled import read_photographs
from soapworks.evaluation.summaries import Values
from soapworks.evaluation.tasks import Correspondence, ModelInput, evaluate
from tests.soapworks.evaluation.tasks.made_up import MODEL, colours, write


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for number, shape in enumerate(((90, 60), (50, 200), (20, 24))):
        write(tmp_path / f"{number}.png", rng.integers(0, 256, (*shape, 3)))
    return read_photographs(tmp_path)


def test_content_finds_its_partner_and_position_its_place(data):
    task = Correspondence(pairs_per_image=3)
    evaluation = task.on(data, MODEL)
    position = np.random.default_rng(1).standard_normal((8, 8, 16))
    content = Values.of_rows(evaluate(evaluation, colours))
    place = Values.of_rows(evaluate(evaluation, lambda image: position))
    pck, same_place = task.measures
    assert content.summarise(pck) > 0.95
    assert place.summarise(same_place) == 1
    assert place.summarise(pck) < 0.5
    assert sorted(set(content.groups)) == ["0.png", "1.png", "2.png"]


def test_both_crops_show_the_same_pixels_shifted_by_whole_patches(data):
    evaluation = Correspondence(pairs_per_image=2).on(data, MODEL)
    for unit in range(evaluation.n_units):
        first, second = evaluation.inputs(unit)
        rows, columns = (4 * part for part in evaluation.pair(unit)[1].offset)
        assert rows
        assert columns
        a = first[:, max(rows, 0) : 32 + min(rows, 0), max(columns, 0) : 32 + min(columns, 0)]
        b = second[:, max(-rows, 0) : 32 + min(-rows, 0), max(-columns, 0) : 32 + min(-columns, 0)]
        np.testing.assert_array_equal(a, b)


def test_pairs_are_a_function_of_seed_and_number(data):
    pairs = [
        [Correspondence(seed=seed).on(data, MODEL).pair(unit) for unit in range(12)]
        for seed in (0, 0, 1)
    ]
    assert pairs[0] == pairs[1] != pairs[2]
    assert len({repr(pair) for pair in pairs[0]}) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs_per_image": 0}, "pairs_per_image = 0"),
        ({"scale": (1.0, 2.0)}, "scale"),
        ({"scale": (3.0, 2.0)}, "scale"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Correspondence(**settings)


def test_a_grid_without_room_for_shifts_is_refused(data):
    model = ModelInput((8, 8), (4, 4), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(InputError, match="grid of 2 x 2 patches is too small"):
        Correspondence().on(data, model)
