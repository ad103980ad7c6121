"""Measures of sets from values of images, and intervals of measures that are no means."""

import numpy as np
import pandas as pd
import pytest

from soapworks.errors import InputError
from soapworks.evaluation import compare, compare_sums
from soapworks.evaluation.intervals import N_RESAMPLES
from soapworks.evaluation.summaries import Measure, Values, compare_values

MIOU, ACCURACY = Measure("mIoU", "mean IoU"), Measure("pixel accuracy", "pixel accuracy")


def pixel_rows(seed, n=30, shift=0):
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(n):
        for label in range(3):
            truth = int(rng.integers(0, 50)) if label else 40
            both = min(truth, int(truth * rng.random()) + shift)
            for part, value in (("intersection", both), ("union", truth + 9), ("truth", truth)):
                rows.append((image, f"scene {image // 2}", f"{part} {label}", value))
    return rows


def test_mean_iou_is_over_classes_of_all_pixels_together():
    table = pd.DataFrame(pixel_rows(0), columns=["image", "group", "measure", "value"])
    total = table.groupby("measure").value.sum()
    expected = np.mean([total[f"intersection {c}"] / total[f"union {c}"] for c in range(3)])
    assert Values(table).summarise(MIOU) == pytest.approx(expected, rel=1e-12)
    right = sum(total[f"intersection {c}"] for c in range(3))
    expected = right / sum(total[f"truth {c}"] for c in range(3))
    assert Values(table).summarise(ACCURACY) == pytest.approx(expected, rel=1e-12)


def test_a_class_that_the_truth_lacks_does_not_count():
    rows = [(0, "a", "intersection 1", 2.0), (0, "a", "union 1", 4.0), (0, "a", "truth 1", 3.0)]
    rows += [(0, "a", f"{part} 7", value) for part, value in (("union", 5.0), ("truth", 0.0))]
    assert Values.of_rows(rows).summarise(MIOU) == 0.5


def test_the_interval_of_a_mean_iou_is_that_of_a_naive_bootstrap():
    raw, head = Values.of_rows(pixel_rows(0)), Values.of_rows(pixel_rows(0, shift=3))
    found = compare_values(MIOU, raw, head)
    tables = [
        pd.DataFrame(pixel_rows(0, shift=shift), columns=["image", "group", "measure", "value"])
        .pivot(index=["group", "image"], columns="measure", values="value")
        .groupby("group")
        .sum()
        for shift in (0, 3)
    ]
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        chosen = rng.integers(0, 15, 15)
        scores = []
        for table in tables:
            total = table.iloc[chosen].sum()
            iou = [total[f"intersection {c}"] / total[f"union {c}"] for c in range(3)]
            scores.append(np.mean(iou))
        drawn.append(scores[1] - scores[0])
    assert found.n_groups == 15
    assert found.difference == pytest.approx(head.summarise(MIOU) - raw.summarise(MIOU))
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), abs=width / 10
    )
    assert found.verdict == "helps"


def test_a_mean_is_compared_as_compare_does_it():
    rng = np.random.default_rng(3)
    raw, head = rng.random(40), rng.random(40)
    tables = [
        Values.of_rows([(n, f"g{n % 9:02}", "iou", v) for n, v in enumerate(values)])
        for values in (raw, head)
    ]
    found = compare_values(Measure("iou"), *tables)
    expected = compare(raw, head, groups=np.arange(40) % 9)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (expected.difference, expected.low, expected.high), rel=1e-9
    )


def test_max_f_takes_the_threshold_anew_in_every_draw():
    # Two kinds of images, best at different thresholds: the maximum of means lies below 1.
    rows = [(n, str(n), f"f@{t}", float(t // 128 == n % 2)) for n in range(20) for t in (0, 128)]
    values = Values.of_rows(rows)
    measure = Measure("f", "max F")
    assert values.summarise(measure) == 0.5
    parts = values.parts(measure)
    assert parts.shape == (20, 256)
    nothing = np.zeros_like(parts)
    nothing[:, -1] = 1
    found = compare_sums(nothing, parts, lambda s: (s[..., :-1] / s[..., -1:]).max(axis=-1))
    # A maximum of two shares that add up to 1 is never below one half.
    assert found.low >= 0.5
    assert found.high > 0.55


def test_where_less_is_better_less_helps():
    less = Measure("same place", larger_is_better=False)
    tables = [
        Values.of_rows([(n, str(n), "same place", v + n / 100) for n in range(30)])
        for v in (0.5, 0.2)
    ]
    found = compare_values(less, *tables)
    assert found.difference == pytest.approx(-0.3)
    assert found.verdict == "helps"
    assert compare_values(less, *reversed(tables)).verdict == "hurts"


def test_images_without_a_value_are_left_out_of_both():
    rows = [(n, str(n), "ap", 0.5) for n in range(5)] + [(9, "9", "other", 1.0)]
    values = Values.of_rows(rows)
    assert values.summarise(Measure("ap")) == 0.5
    assert compare_values(Measure("ap"), values, values).n_groups == 5


def test_tables_of_other_images_are_not_compared():
    values = [Values.of_rows([(n, str(n), "ap", 0.5) for n in range(k)]) for k in (4, 5)]
    with pytest.raises(InputError, match="different images, 4 and 5"):
        compare_values(Measure("ap"), *values)
    with pytest.raises(InputError, match="no image has a value of 'iou'; there are ap"):
        values[0].summarise(Measure("iou"))
    lacking = Values.of_rows([(n, str(n), "ap" if n else "x", 0.5) for n in range(4)])
    with pytest.raises(InputError, match="in one table only"):
        compare_values(Measure("ap"), values[0], lacking)


def test_sums_that_do_not_fit_are_refused():
    for raw, head, message in (
        (np.zeros(3), np.zeros(3), "equal shape"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "2 independent"),
        (np.full((3, 1), np.nan), np.zeros((3, 1)), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            compare_sums(raw, head, lambda sums: sums[..., 0])
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match="undefined"):
        compare_sums(np.zeros((3, 2)), np.zeros((3, 2)), lambda sums: sums[..., 0] / sums[..., 1])


def test_the_same_draw_whatever_the_number_of_columns():
    sums = np.random.default_rng(0).random((50, 3))
    wide = np.concatenate([sums, np.zeros((50, 2000))], axis=1)  # more chunks of draws
    a, b = (
        compare_sums(0 * table, table, lambda s: s[..., 0] - s[..., 1]) for table in (sums, wide)
    )
    assert (a.low, a.high) == pytest.approx((b.low, b.high))
    assert N_RESAMPLES == 10_000
