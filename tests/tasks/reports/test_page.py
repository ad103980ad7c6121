"""Reports: everything in one page, nothing in it obeyed, the same for the same products."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from soapworks.errors import MissingProductError, StoreError
from soapworks.storage_schemas.layout.recipes import HeadRecipe
from soapworks.storage_schemas.layout.tables import HEAD_SCORES, SCORES_TABLE, write_scores
from soapworks.storage_schemas.store import Attempt, Store
from soapworks.tasks.plan.recipes import CheckpointPlan, Missing
from soapworks.tasks.plan.request import ScoreRequest, plan_of
from soapworks.tasks.reports.leaderboard import read_leaderboard, update_leaderboard
from soapworks.tasks.reports.page import Page, make_page, publish_pages, write_report
from soapworks.tasks.reports.summary import summarize
from soapworks.tasks.stages.respond import read_responses
from tests.tasks.conftest import run_stages
from tests.tasks.scored import FACTS, MEASURED, digit, publish_head, subject

HOSTILE = "<script>alert(1)</script>'\"&{{ 7 * 7 }}\ud800\x1b[2J.pt"
KNOWN = set(
    re.findall(
        r"\w+",
        "html head meta title style body nav a h1 h2 h3 p b i br small section div dl dt dd table "
        "thead tr th tbody td span code ol li footer img svg defs g path use rect text clippath",
    )
)
"""Elements that a page is made of."""


class Elements(HTMLParser):
    """The elements and attributes of a page, as a browser sees them."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def publish_scored(store: Store, model: int, layer: str, **measured: str) -> None:
    """Publish a head of two components, with its score table, by hand."""
    rows: dict[str, object] = {column.name: [0.5, 0.25] for column in HEAD_SCORES}
    rows |= {"layer": [layer] * 2, "component": [0, 1], "rank": [0, 1]}
    recipe = HeadRecipe(subject=subject(model, layer), pca=digit(7), scores=digit(model))
    attempt = store.claim(recipe)
    assert isinstance(attempt, Attempt)
    with attempt:
        attempt.writer.write(SCORES_TABLE, write_scores(pd.DataFrame(rows), HEAD_SCORES))
        attempt.writer.write("head.safetensors", b"by hand")
        attempt.publish({**FACTS, "n_components": 2, "measured": {**MEASURED, **measured}})


@pytest.fixture
def plan(store: Store, request_: ScoreRequest) -> CheckpointPlan:
    (identity,), (manifest,) = store.products("checkpoints"), store.products("images")
    return plan_of(request_.planned(manifest.key, identity.key))


def images(html: bytes) -> list[Image.Image]:
    """Return the pictures that are in a page."""
    found = re.findall(rb'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_it_says_what_the_summary_says(store: Store, plan: CheckpointPlan) -> None:
    (layer,) = summarize(store, plan, Missing())
    place = write_report(store, plan, layer.checkpoint)
    words = " ".join(" ".join(Elements(place.read_bytes()).words).split())
    for said in (
        layer.checkpoint,
        f"{layer.top_si:.4f}",
        f"{layer.top_standard_error:.4f}",
        f"{layer.n_invariant} of 24",
        f"{layer.invariant_variance_share:.1%}",
        layer.key[:12],
        "10, squash",
        "32 × 32 pixels",
    ):
        assert said in words


def test_pictures_are_the_stored_counts(store: Store, plan: CheckpointPlan) -> None:
    import matplotlib as mpl

    html = write_report(store, plan).read_bytes()
    (layer,) = plan.layers
    (scores,) = store.products("scores")
    responses = [store.find(recipe) for recipe in layer.real_responses]
    counts, sizes = read_responses([one for one in responses if one])
    top = scores.facts["top_component"]
    rates = counts.sum(0)[..., top] / sizes.sum()
    wanted = (mpl.colormaps["RdBu_r"](rates)[..., :3] * 255).round()
    assert np.abs(np.asarray(images(html)[0]).astype(float) - wanted).max() <= 1
    assert len(images(html)) == 2 * 8


def test_nothing_comes_from_elsewhere(store: Store, plan: CheckpointPlan) -> None:
    elements = Elements(write_report(store, plan).read_bytes()).seen
    assert {tag for tag, _ in elements} <= KNOWN
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("data:image/png;", "#", "index.html")), address


def test_a_checkpoints_name_is_no_markup(store: Store, plan: CheckpointPlan) -> None:
    html = write_report(store, plan, HOSTILE).read_bytes()
    elements = Elements(html)
    assert {tag for tag, _ in elements.seen} <= KNOWN
    shown = HOSTILE.replace("\ud800", r"\ud800").replace("\x1b", r"\x1b")
    assert sum(shown in word for word in elements.words) == 2  # title and heading


def test_hostile_names_in_records_are_no_markup(tmp_path: Path) -> None:
    store = Store(tmp_path / "by_hand")
    evil = "<img src=x onerror=alert(1)>"
    publish_scored(store, 1, evil, preprocessing=evil, spec=evil)
    table = read_leaderboard(store)
    page = make_page(store, table, table["page"].iloc[0])
    elements = Elements(page.html)
    assert {tag for tag, _ in elements.seen} <= KNOWN - {"img"}
    (place,) = publish_pages(store, [page])
    listed = Elements((place.parent / "index.html").read_bytes())
    assert {tag for tag, _ in listed.seen} <= KNOWN - {"img"}


def test_equal_products_give_equal_bytes(
    store: Store, plan: CheckpointPlan, tmp_path: Path
) -> None:
    place = write_report(store, plan)
    first = {name: (place.parent / name).read_bytes() for name in place.parent.names()}
    shutil.copytree(store.url, tmp_path / "copy")
    again = write_report(Store(tmp_path / "copy"), plan)
    assert {name: (again.parent / name).read_bytes() for name in again.parent.names()} == first


def test_without_responses_a_page_says_so(store: Store, plan: CheckpointPlan) -> None:
    for product in store.products("responses"):
        store.delete(product)
    html = write_report(store, plan).read_bytes()
    assert images(html) == []
    assert "No pictures: the responses" in " ".join(Elements(html).words)


def test_layers_that_were_scored_before_are_on_the_page(
    store: Store, plan: CheckpointPlan, request_: ScoreRequest
) -> None:
    settings = request_.settings.model_copy(update={"layers": "blocks.0"})
    run_stages(request_.model_copy(update={"settings": settings}))
    words = Elements(write_report(store, plan).read_bytes()).words
    assert {"blocks.0", "norm"} <= {word.strip() for word in words}


def test_another_head_has_another_page(
    store: Store, plan: CheckpointPlan, request_: ScoreRequest
) -> None:
    settings = request_.settings.model_copy(update={"mu": 5.0})
    run_stages(request_.model_copy(update={"settings": settings}))
    table = read_leaderboard(store)
    assert len(table) == table["page"].nunique() == 2
    places = publish_pages(store, [make_page(store, table, name) for name in table["page"]])
    listed = Elements((places[0].parent / "index.html").read_bytes()).seen
    links = {attributes["href"] for tag, attributes in listed if tag == "a"}
    assert links == {place.name for place in places}


def test_the_list_has_only_pages_that_are_there(store: Store, plan: CheckpointPlan) -> None:
    publish_head(store, 5)
    place = write_report(store, plan)
    listed = Elements((place.parent / "index.html").read_bytes()).seen
    assert [attributes["href"] for tag, attributes in listed if tag == "a"] == [place.name]


def test_a_layer_without_a_score_is_not_the_best_of_its_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "by_hand")
    collapsed = {"top_si": 1.0, "n_invariant": 24, "invariant_variance_share": 0.0}
    publish_head(store, 1, "blocks.0", **collapsed)
    publish_head(store, 1, "norm", scores=2, top_si=0.8)
    publish_head(store, 3, "norm", **collapsed)
    table = read_leaderboard(store)
    pages = [Page(name, "a checkpoint", b"page") for name in table["page"].unique()]
    places = publish_pages(store, pages)
    words = Elements((places[0].parent / "index.html").read_bytes()).words
    figures = [word for word in map(str.strip, words) if word in ("0.8000", "1.0000", "–")]
    assert figures[0] == "0.8000"
    assert "1.0000" not in figures


@pytest.mark.parametrize("linked", ["reports", "reports/page.html", "reports/index.html"])
def test_nothing_is_written_through_a_link(tmp_path: Path, linked: str) -> None:
    store, outside = Store(tmp_path / "by_hand"), tmp_path / "outside"
    publish_head(store)
    link = tmp_path / "by_hand" / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    if linked == "reports":
        outside.mkdir()
    else:
        outside.write_text("not ours")
    link.symlink_to(outside)
    pages = [Page("page.html", "a checkpoint", b"page")]
    if linked == "reports":
        for write in (lambda: publish_pages(store, pages), lambda: update_leaderboard(store)):
            with pytest.raises(StoreError, match="reports is a symbolic link"):
                write()
        assert list(outside.iterdir()) == []
    else:
        publish_pages(store, pages)
        assert outside.read_text() == "not ours"


def test_a_page_that_is_not_there(store: Store) -> None:
    with pytest.raises(MissingProductError, match="nothing to report"):
        make_page(store, read_leaderboard(store), "vit-000000000000.html")
