"""What watches and reports leave in a store disturbs nobody who looks after its products."""

import shutil
from pathlib import Path

import pytest

from soapworks.storage_schemas.store import BESIDE, Store
from soapworks.tasks.maintenance.gc import choose, clean
from soapworks.tasks.maintenance.retention import Retention
from soapworks.tasks.maintenance.verify import verify
from soapworks.tasks.watch.state import FOLDER
from tests.small import write_photographs
from tests.tasks.watchers import Clock, Watcher, make_watch


@pytest.fixture
def watched(store: Store, tmp_path: Path) -> Store:
    """A store with products, a scored and a failed checkpoint, a curve, and a dead lease."""
    write_photographs(tmp_path / "photographs", 1)
    (tmp_path / "checkpoints").mkdir()
    for step, content in ((1, "good"), (2, "bad")):
        (tmp_path / f"checkpoints/step_{step}.pt").write_text(content)
    watcher = Watcher(make_watch(tmp_path, stable_seconds=0), Clock())
    assert watcher.watch.store.url == store.url
    watcher.callbacks.draws = True
    heads = set((store.location / "heads").names())
    watcher.round()
    for name in set((store.location / "heads").names()) - heads:
        (store.location / "heads" / name).delete()  # toys of the test's own
    (watcher.watch.address("step_2.pt") / "lease-000007.json").write_bytes(b"{}")
    return store


def test_the_folder_is_reserved() -> None:
    assert FOLDER in BESIDE


def test_it_is_no_kind_of_product(watched: Store, request_) -> None:
    assert (watched.location / FOLDER).names()
    assert FOLDER not in watched.kinds()
    assert not any(FOLDER in address.url for address in watched.addresses())
    assert len(watched.products("heads")) == 1
    assert watched.unreadable() == []


def test_verify_does_not_look_at_it(watched: Store) -> None:
    found = verify(watched, workers=1)
    assert (found.damaged, found.unnamed, found.later) == ((), (), ())


def test_gc_deletes_nothing_of_it(watched: Store) -> None:
    folder = watched.location / FOLDER
    before = folder.sizes()
    retention = Retention(keep_features=0, abandoned=True, unreferenced=True)
    chosen = choose(watched, retention, patience=0.2)
    assert chosen.choices
    clean(watched, chosen)
    assert folder.sizes() == before


def test_a_store_without_it_is_the_same_store(watched: Store) -> None:
    keys = {product.key for product in watched.products()}
    shutil.rmtree((watched.location / FOLDER).url)
    assert {product.key for product in watched.products()} == keys
