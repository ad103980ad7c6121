"""Charts of a report: whole, legible on any ground, and the same for the same numbers."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from soapworks.tasks.reports.charts import by_layer, by_rank


def scores(errors: float = 0.01) -> pd.DataFrame:
    si = np.array([0.72, 0.95, 0.80])
    return pd.DataFrame({"si": si, "standard_error": errors, "rank": [2, 0, 1]})


@pytest.fixture(params=["rank", "layer"])
def chart(request: pytest.FixtureRequest) -> str:
    if request.param == "rank":
        return by_rank(scores())
    return by_layer(["blocks.0", "norm"], [0.9, 0.8], [0.01, float("nan")], [0.5, 0.0])


def test_it_is_well_formed(chart: str) -> None:
    assert ElementTree.fromstring(chart).tag.endswith("svg")


def test_every_colour_is_the_pages(chart: str) -> None:
    assert set(re.findall(r"var\(--(\w+)\)", chart)) == {"ink", "faint", "line", "accent"}
    assert "#0102" not in chart
    assert "#ffffff" not in chart


def test_it_shows_both_limits(chart: str) -> None:
    texts = [node.text for node in ElementTree.fromstring(chart).iter() if node.text]
    assert {".75", ".7071"} <= set(texts)


def test_equal_numbers_give_equal_text() -> None:
    assert by_rank(scores()) == by_rank(scores())


def test_an_error_that_nobody_knows_is_no_band() -> None:
    assert "nan" not in by_rank(scores(float("nan"))).lower()


@pytest.mark.parametrize("n", [0, 1])
def test_what_has_no_score_is_not_drawn(n: int) -> None:
    some = [0.8] * n + [float("nan")] * (3 - n)
    assert "nan" not in by_rank(scores().assign(si=some)).lower()
    assert "nan" not in by_layer(["a", "b", "c"], some, [0.01] * 3, [0.0] * 3).lower()


def test_names_of_layers_are_no_markup() -> None:
    hostile = "<script>alert(1)</script>--><b>$x$&"
    chart = by_layer([hostile], [0.9], [0.01], [0.5])
    assert "<script" not in chart
    texts = [node.text for node in ElementTree.fromstring(chart).iter()]
    assert hostile in texts
