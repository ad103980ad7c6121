"""A store's integrity on a schedule: the run fails where damage is left, and shows it."""

from pathlib import Path

import pytest

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.store import Store
from tests.flows.test_score_flow import newest, post
from tests.flows.test_verify_gc import place, store  # noqa: F401  (fixtures)

pytestmark = pytest.mark.server


def test_a_whole_store(store: Store, prefect_server: str) -> None:  # noqa: F811
    from soapworks.flows.verify import verify_store

    found = verify_store(store.url)
    assert (found["left"], found["damaged"]) == (0, [])
    assert found["n_products"] == len(store.products())


def test_damage_fails_the_run_until_it_is_repaired(
    store: Store,  # noqa: F811
    prefect_server: str,
) -> None:
    from soapworks.flows.verify import verify_store

    (head,) = store.products("heads")
    Path(head.data.url, "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedProductError, match=r"1 products in .* are damaged"):
        verify_store(store.url, what="heads")
    wanted = {"artifacts": {"key": {"any_": ["soapworks-verify"]}}, "sort": "CREATED_DESC"}
    artifact = post(prefect_server, "artifacts/filter", wanted)[0]
    assert f"heads/{head.location.name} is damaged" in artifact["data"]
    runs = newest(prefect_server, 1)
    assert runs[0]["name"] == f"verify {store.url}"
    assert runs[0]["state"]["type"] == "FAILED"
    assert verify_store(store.url, repair=True)["left"] == 0
    assert verify_store(store.url)["damaged"] == []
