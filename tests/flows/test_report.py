"""``soapworks report`` as its users meet it."""

from pathlib import Path

import pytest

from soapworks.flows.cli import main
from soapworks.storage_schemas.store import Store
from tests.tasks.reports.test_page import publish_scored
from tests.tasks.scored import publish_checkpoint


@pytest.fixture
def place(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    publish_checkpoint(store, 1, "mae.pt")
    publish_checkpoint(store, 2, "dino.pt")
    publish_scored(store, 1, "norm")
    publish_scored(store, 2, "norm")
    return store


def said(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str) -> list[str]:
    main(["report", "--store", store.url, "--quiet", *arguments])
    return capsys.readouterr().out.splitlines()


def test_a_page_per_checkpoint_below_the_store(capsys, place: Store) -> None:
    addresses = said(capsys, place)
    assert len(addresses) == 2
    assert {str(Path(address).parent) for address in addresses} == {place.url + "/reports"}
    assert all("<h1>" in Path(address).read_text() for address in addresses)


def test_one_page_to_a_file(capsys, place: Store, tmp_path: Path) -> None:
    (address,) = said(capsys, place, "mae", "--output", str(tmp_path / "mine.html"))
    assert address == str(tmp_path / "mine.html")
    html = Path(address).read_text()
    assert "<h1>mae.pt</h1>" in html
    assert "index.html" not in html  # no list stands beside it
    assert (place.location / "reports").names() == []


def test_a_page_by_its_own_name(capsys, place: Store, tmp_path: Path) -> None:
    (address,) = said(capsys, place, "mae.pt")
    name = Path(address).name
    assert said(capsys, place, name, "--output", str(tmp_path)) == [str(tmp_path / name)]


def test_several_pages_do_not_fit_one_file(capsys, place: Store, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        said(capsys, place, "--output", str(tmp_path / "mine.html"))
    told = capsys.readouterr().err
    assert "mae.pt" in told
    assert "dino.pt" in told
    assert not (tmp_path / "mine.html").exists()


def test_a_model_that_nobody_scored(capsys, place: Store) -> None:
    with pytest.raises(SystemExit):
        said(capsys, place, "clip")
    (line,) = capsys.readouterr().err.splitlines()
    assert "soapworks leaderboard" in line


@pytest.mark.usefixtures("s3_endpoint")
def test_a_page_to_a_bucket(capsys, place: Store) -> None:
    import fsspec

    from soapworks.storage_schemas.locations.location import Location

    fsspec.filesystem("s3").makedirs("reports-bucket", exist_ok=True)
    (address,) = said(capsys, place, "mae", "--output", "s3://reports-bucket/a/mae.html")
    assert address == "s3://reports-bucket/a/mae.html"
    assert b"<h1>mae.pt</h1>" in Location.parse(address).read_bytes()
