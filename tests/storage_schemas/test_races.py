"""Several processes, and the worst that happens to one of them."""

import signal
import time

import pytest

from soapworks.storage_schemas.leasing.lease_state import numbers
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from tests.storage_schemas.toys import DEADLINE, N_BLOCKS, Toy, get_or_make, make


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.timeout(120))])
def any_store(request) -> Store:
    return request.getfixturevalue("store" if request.param == "disk" else "s3_store")


def undisturbed(tmp_path) -> Product:
    product, _ = get_or_make(Store(tmp_path / "undisturbed"), Toy())
    return product


def test_processes_that_race_compute_once(any_store, start):
    workers = [start("get_or_make", any_store) for _ in range(3)]
    assert [worker.hear() for worker in workers] == [["ready"]] * 3
    for worker in workers:
        worker.tell("go")
    answers = [worker.hear() for worker in workers]
    assert sorted(answer[0] for answer in answers) == ["found", "found", "made"]
    assert len({answer[1] for answer in answers}) == 1
    names = any_store.address(Toy()).names()
    assert names == [answers[0][1], "recipe.json", "record.json"]


def test_killed_holder_on_this_machine_delays_nobody(any_store, start, tmp_path):
    any_store.lease_seconds = 3600  # expiry would be an hour away
    holder = start("torn", any_store)
    holder.hear()
    holder.tell("go")
    attempt_name = holder.hear()[1]
    assert any_store.claim(Toy()) is None
    assert "pid" in (any_store.holder(Toy()) or "")
    holder.signal(signal.SIGKILL)
    holder.wait()
    attempt = any_store.claim(Toy())
    assert attempt is not None
    assert attempt.writer.finished_parts() == {f"block-{i}" for i in range(N_BLOCKS - 1)}
    product = make(attempt)
    assert product.record["files"] == undisturbed(tmp_path).record["files"]
    assert product.verify() == []
    assert attempt_name not in any_store.address(Toy()).names()


def test_killed_holder_elsewhere_is_replaced_after_expiry(any_store, start):
    holder = start("hold", any_store, host="elsewhere")
    holder.hear()
    holder.tell("go")
    holder.hear()
    # It beats: however long one looks, the lease stands.
    end = time.monotonic() + 1.5 * any_store.lease_seconds
    while time.monotonic() < end:
        assert any_store.claim(Toy()) is None
        time.sleep(0.05)
    holder.signal(signal.SIGKILL)
    holder.wait()
    killed = time.monotonic()
    attempt = None
    while attempt is None and time.monotonic() < killed + DEADLINE:
        attempt = any_store.claim(Toy())
        time.sleep(0.05)
    waited = time.monotonic() - killed
    assert attempt is not None
    with attempt:
        # The last beat lies up to a quarter of the time before the kill.
        assert 0.6 * any_store.lease_seconds < waited < 2 * any_store.lease_seconds + 2
        assert numbers(attempt.address) == [2]


@pytest.mark.parametrize("word", ["publish", "part"])
def test_holder_that_stood_still_cannot_publish(store, start, word):
    zombie = start("hold", store, host="elsewhere")
    zombie.hear()
    zombie.tell("go")
    zombie.hear()
    zombie.signal(signal.SIGSTOP)
    attempt = None
    end = time.monotonic() + DEADLINE
    while attempt is None and time.monotonic() < end:
        attempt = store.claim(Toy())
        time.sleep(0.05)
    zombie.tell(word)
    zombie.signal(signal.SIGCONT)
    assert zombie.hear() == ["lost"]
    assert not attempt.lost
    product = make(attempt)
    assert zombie.wait() == 0
    assert store.find(Toy()) == product
    assert product.verify() == []


def test_late_holder_adopts_what_another_published(store, start):
    late = start("hold", store, host="elsewhere")
    late.hear()
    late.tell("go")
    own = late.hear()[1]
    late.signal(signal.SIGSTOP)
    product, made = get_or_make(store, Toy())
    assert made
    late.tell("publish")
    late.signal(signal.SIGCONT)
    # Its parts may have been cleaned away under it; then it is told that its lease is lost.
    answer = late.hear()
    assert answer in (["adopted", product.data.name], ["lost"])
    assert late.wait() == 0
    assert store.find(Toy()) == product
    assert own not in store.address(Toy()).names()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_holder_that_is_asked_to_end_gives_its_lease_back(store, start, number):
    holder = start("hold", store, host="elsewhere")
    holder.hear()
    holder.tell("go")
    _, name, _ = holder.hear()
    holder.signal(number)
    holder.wait()
    assert numbers(store.address(Toy())) == []
    attempt = store.claim(Toy())
    with attempt:
        assert len(attempt.writer.finished_parts()) == N_BLOCKS - 1
        assert name != attempt.location.name


def test_kills_at_random_moments_end_in_the_same_bytes(store, start, tmp_path):
    expected = undisturbed(tmp_path).record["files"]
    for step in range(3):
        worker = start("torn", store)
        worker.hear()
        worker.tell("go")
        answer = worker.hear()
        assert answer[0] == "holding"
        assert int(answer[2]) == (N_BLOCKS - 1 if step else 0)
        worker.signal(signal.SIGKILL)
        worker.wait()
    product, _ = get_or_make(store, Toy())
    assert product.record["files"] == expected
    assert len(product.location.names()) == 3
