"""A store made by version 0.1.0 of 26 November 2026 opens, verifies and is reused."""

import tarfile
from pathlib import Path

import pytest

from soapworks.heads.head import SoapHead
from soapworks.storage_schemas.store import Store
from soapworks.tasks.maintenance.verify import verify
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.tasks.conftest import Forwards, run_stages

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "store_0_1.tar.gz"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", ["stored", "streamed"])
def test_every_product_of_an_old_store_is_whole(unpacked: Path, name: str) -> None:
    store = Store(unpacked / name)
    found = verify(store, workers=2)
    assert found.n_products == len(store.products()) > 10
    assert not found.damaged


def test_heads_of_an_old_store_load(unpacked: Path) -> None:
    for product in Store(unpacked / "stored").products("heads"):
        head = SoapHead.load(product.location.url)
        assert head.metadata["layer"] == product.recipe["subject"]["layer"]
        assert head.to_bytes() == product.read("head.safetensors")


@pytest.mark.parametrize(("name", "kept"), [("stored", "all"), ("streamed", "none")])
def test_an_old_store_is_reused_without_a_forward_pass(
    unpacked: Path, name: str, kept: str, forwards: Forwards
) -> None:
    before = {p.key for p in Store(unpacked / name).products("heads")}
    request = ScoreRequest(
        checkpoint=str(unpacked / "checkpoint"),
        images=str(unpacked / "photographs"),
        settings=ScoreSettings(
            layers="norm,blocks.0", synthetic_images=6, block_images=4, segment_images=8
        ),
        options=RunOptions(
            store=str(unpacked / name), device="cpu", batch_size=4, workers=2, keep_features=kept
        ),
    )
    rows = run_stages(request)
    assert forwards.n_images == 0
    assert {row["key"] for row in rows} == before
    assert all(row["cached"] for row in rows)
