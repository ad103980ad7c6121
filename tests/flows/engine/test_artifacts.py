"""What a run shows in Prefect's pages, on a real server; and that nothing there can fail a run."""

import base64
from typing import Any

import pytest

from soapworks.flows.engine import artifacts
from soapworks.flows.engine.artifacts import publish_pictures, publish_report, scores_in_markdown
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.locations.location import Location
from tests.flows.test_score_flow import post

LAYER = LayerSummary(
    checkpoint="my`model`\n# pt",
    layer="norm",
    top_si=0.91234,
    top_component=3,
    n_invariant=4,
    invariant_variance_share=0.125,
    n_suppressed=2,
    n_components=24,
    n_real=9,
    n_synthetic=6,
    cached=False,
    key="a" * 64,
    head="store/heads/x",
)
PAGE = Location("/store/reports/vit_tiny-0123456789ab.html")


def published(api: str, key: str) -> dict[str, Any]:
    """Return the newest artifact with a key."""
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    return post(api, "artifacts/filter", wanted)[0]


@pytest.mark.server
def test_a_report_and_a_link_to_it(prefect_server: str) -> None:
    from prefect import flow

    @flow
    def run() -> None:
        publish_report([LAYER], PAGE, reports_url="https://example.org/reports/")
        publish_pictures("my.pt", "norm", b"picture", PAGE.name)

    run()
    link = published(prefect_server, "soapworks-link-vit-tiny-0123456789ab")
    assert link["data"] == "[report](https://example.org/reports/vit_tiny-0123456789ab.html)"
    report = published(prefect_server, "soapworks-report-vit-tiny-0123456789ab")
    assert PAGE.url in report["data"]
    picture = published(prefect_server, "soapworks-components-vit-tiny-0123456789ab")
    data = picture["data"].partition("base64,")[2].rstrip(")")
    assert base64.b64decode(data) == b"picture"


def test_scores_are_a_table() -> None:
    *_, heading, rule, row = scores_in_markdown([LAYER], PAGE).splitlines()
    assert heading.count("|") == rule.count("|") == row.count("|")
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["norm", "0.9123", "–", "3", "4", "12.5%", "2", "no"]


def test_names_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def take(*_: Any, description: str, **__: Any) -> None:
        told.append(description)

    monkeypatch.setattr(artifacts, "create_markdown_artifact", take)
    publish_report([LAYER], PAGE)
    assert told == ["Scores of `my'model' # pt`, and its report"]


def test_a_server_that_refuses_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the server is tired")

    monkeypatch.setattr(artifacts, "create_markdown_artifact", refuse)
    publish_report([LAYER], PAGE)
    publish_pictures("my.pt", "norm", b"picture", PAGE.name)
    assert caplog.text.count("the server is tired") == 2
