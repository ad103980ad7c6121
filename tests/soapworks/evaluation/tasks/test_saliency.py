"""The saliency task: what it keeps, and measures that are those of whole masks."""

import numpy as np
import pytest
from PIL import Image

from soapworks.errors import InputError
from soapworks.evaluation import max_f_measure
from soapworks.evaluation.labelled import read_masks, read_photographs
from soapworks.evaluation.saliency import tokencut
from soapworks.evaluation.summaries import Values
from soapworks.evaluation.tasks import ModelInput, Saliency, evaluate
from tests.soapworks.evaluation.tasks.made_up import MODEL, colours, squares, write


def distinct(image):
    """Tokens of which those of the background stand alone."""
    return colours(image) - np.array([60, 90, 60, 0]) / 255


def salience(tokens):
    return np.abs(tokens[..., 1])


def test_objects_that_stand_out_are_found_by_every_variant(tmp_path):
    squares(tmp_path)
    task = Saliency(refine=True)
    values = Values.of_rows(
        evaluate(task.on(read_masks(tmp_path), MODEL), distinct, guide=salience)
    )
    assert task.variants == ("vmax", "vmax refined", "guided", "guided refined")
    for measure in task.measures:
        assert values.summarise(measure) == pytest.approx(1, abs=1e-6), measure


def test_max_f_of_rows_is_that_of_all_masks(tmp_path):
    squares(tmp_path, n=5)
    rng = np.random.default_rng(0)
    data = read_masks(tmp_path)
    found = {}

    def noisy(image):
        tokens = distinct(image) + rng.normal(0, 0.2, (8, 8, 4))
        found[len(found)] = tokencut(tokens, (32, 32)).mask
        return tokens

    task = Saliency(seeds=("vmax",))
    rows = evaluate(task.on(data, MODEL), noisy)
    expected = max_f_measure((found[n], data.mask(n)) for n in range(5))
    assert 0.1 < expected < 0.95
    assert Values.of_rows(rows).summarise(task.measures[2]) == pytest.approx(expected, rel=1e-12)
    # A binary mask has two values of F: of everything, and of itself.
    assert sum(row.measure.startswith("vmax f@") for row in rows) <= 10


def test_images_keep_their_aspect_or_take_the_models_size(tmp_path):
    squares(tmp_path, n=1, shape=(32, 62))
    data = read_masks(tmp_path)
    model = ModelInput((32, 32), (4, 4), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    (native,) = Saliency().on(data, model).inputs(0)
    assert native.shape == (3, 32, 64)  # 62 / 4 = 15.5 is rounded to even
    image = data.image(0).resize((64, 32), Image.Resampling.LANCZOS)
    expected = (np.asarray(image, np.float32) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(native, expected.transpose(2, 0, 1), atol=1e-6)
    (fixed,) = Saliency(resize="model").on(data, model).inputs(0)
    assert fixed.shape == (3, 32, 32)
    (small,) = Saliency(max_side=31).on(data, model).inputs(0)
    assert small.shape == (3, 16, 32)


def test_a_grid_that_is_no_square_is_judged_as_it_is(tmp_path):
    squares(tmp_path, n=2, shape=(32, 64))
    task = Saliency(seeds=("vmax",))
    values = Values.of_rows(evaluate(task.on(read_masks(tmp_path), MODEL), distinct))
    assert values.summarise(task.measures[0]) == pytest.approx(1)


def test_a_quantile_joins_as_many_pairs_whatever_the_cosines(tmp_path):
    squares(tmp_path, n=1)

    def shifted(image):
        return distinct(image) + np.array([0, 0, 0, 3])

    masks = read_masks(tmp_path)
    fixed = Saliency(seeds=("vmax",))
    share = Saliency(seeds=("vmax",), quantile=0.1)
    found = [
        Values.of_rows(evaluate(task.on(masks, MODEL), shifted)).summarise(task.measures[0])
        for task in (fixed, share)
    ]
    assert found[0] < 0.5  # every cosine is above .3: nothing stands out
    assert found[1] == pytest.approx(1)


def test_an_empty_mask_and_a_missing_guide(tmp_path):
    squares(tmp_path, n=1)
    write(tmp_path / "masks/0.png", np.zeros((32, 32)))
    evaluation = Saliency().on(read_masks(tmp_path), MODEL)
    with pytest.raises(InputError, match="guide"):
        evaluate(evaluation, distinct)
    rows = evaluate(Saliency(seeds=("vmax",)).on(read_masks(tmp_path), MODEL), distinct)
    assert {row.measure: row.value for row in rows}["vmax iou"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, "choose of vmax, guided"),
        ({"seeds": ("best",)}, "choose of vmax, guided"),
        ({"threshold": 1.0}, "threshold"),
        ({"quantile": 1.0}, "quantile"),
        ({"resize": "crop"}, "native or model"),
        ({"max_side": 0}, "max_side = 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Saliency(**settings)


def test_images_without_masks_are_refused(tmp_path):
    squares(tmp_path, n=1)
    with pytest.raises(InputError, match="read as photographs, and this task needs masks"):
        Saliency().on(read_photographs(tmp_path / "images"), MODEL)
