import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from soapworks.errors import StoreError
from soapworks.storage_schemas.leasing import heartbeats, leases, processes
from soapworks.storage_schemas.leasing import lease_state as holdings
from soapworks.storage_schemas.leasing.lease_state import MAX_SECONDS, numbers, read_lease
from soapworks.storage_schemas.leasing.leases import LeaseLostError, acquire
from soapworks.storage_schemas.locations.disk import Disk
from soapworks.storage_schemas.locations.location import Location
from tests.storage_schemas.toys import DEADLINE, Toy


@pytest.fixture
def folder(tmp_path) -> Location:
    return Location.parse(tmp_path / "kind" / "product")


@pytest.fixture
def clock(monkeypatch):
    """The observer's own clock, moved by hand."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(holdings, "time", clock)
    return clock


def put(folder: Location, number: int = 1, **fields: object) -> Location:
    """Write the lease of a holder on another machine."""
    content = {"format": 1, "token": "other", "beat": 0, "seconds": 10.0, "host": "elsewhere"}
    file = folder / f"lease-{number:06d}.json"
    file.write_bytes(json.dumps({**content, **fields}).encode())
    return file


def until(condition) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_one_holds_and_gives_back(folder):
    lease = acquire(folder, 5)
    assert acquire(folder, 5) is None
    assert f"pid {os.getpid()}" in str(read_lease(folder))
    lease.check()
    lease.release()
    lease.release()
    assert numbers(folder) == []
    with pytest.raises(LeaseLostError, match="kind/product"):
        lease.check()
    acquire(folder, 5).release()


def test_a_lease_expires_by_the_observers_clock(folder, clock):
    put(folder)
    assert not read_lease(folder).expired
    clock.now += 9.9
    assert acquire(folder, 5) is None
    clock.now += 0.2
    lease = acquire(folder, 5)
    assert numbers(folder) == [2]
    lease.release()


def test_a_sign_of_life_starts_the_time_anew(folder, clock):
    put(folder, beat=0)
    for beat in range(1, 5):
        assert not read_lease(folder).expired
        clock.now += 9
        put(folder, beat=beat)
    assert not read_lease(folder).expired


@pytest.mark.parametrize("seconds", [None, "x", -1, True, 10**400, 1e300])
def test_a_lease_with_nonsense_expires_too(folder, clock, seconds):
    put(folder, seconds=seconds)
    assert not read_lease(folder, default_seconds=60).expired
    clock.now += MAX_SECONDS + 1
    assert read_lease(folder, default_seconds=60).expired


def test_an_unreadable_lease_expires_too(folder, clock):
    (folder / "lease-000003.json").write_bytes(b"{")
    assert not read_lease(folder).expired
    clock.now += 4
    assert acquire(folder, 5) is None
    clock.now += 2
    lease = acquire(folder, 5)
    assert numbers(folder) == [4]
    lease.release()


def test_a_lease_whose_answer_was_lost_is_held(folder, monkeypatch):
    real = Disk.create

    def create_twice(self, path, data, **named):  # as a client does that got no answer
        real(self, path, data, **named)
        return real(self, path, data, **named)

    monkeypatch.setattr(Disk, "create", create_twice)
    lease = acquire(folder, 60)
    assert lease is not None
    lease.release()


def test_a_lease_that_could_not_be_taken_is_not_left(folder, monkeypatch):
    real = Disk.create

    def create(self, path, data, **named):
        real(self, path, data, **named)
        raise ConnectionResetError

    monkeypatch.setattr(Disk, "create", create)
    with pytest.raises(StoreError):
        acquire(folder, 60)
    assert numbers(folder) == []


def test_the_heartbeat_is_seen(folder):
    lease = acquire(folder, 0.4)
    first = lease.file.read_bytes()
    until(lambda: json.loads(lease.file.read_bytes())["beat"] >= 3)
    assert lease.file.read_bytes() != first
    assert not lease.lost
    lease.release()


def test_one_thread_for_all_leases_and_none_without(tmp_path):
    def beating() -> int:
        return sum(thread.name == "leases" for thread in threading.enumerate())

    until(lambda: beating() == 0)
    held = [acquire(Location.parse(tmp_path / name), 1) for name in "abc"]
    assert beating() == 1
    for lease in held:
        lease.release()
    until(lambda: beating() == 0)


@pytest.mark.parametrize("how", ["gone", "other token", "higher number", "torn"])
def test_a_holder_learns_that_it_lost(folder, how):
    lease = acquire(folder, 0.2)
    if how == "gone":
        lease.file.delete()
    elif how == "other token":
        put(folder, 1)
    elif how == "torn":
        lease.file.write_bytes(b"{")
    else:
        put(folder, 2)
    until(lambda: lease.lost)
    before = folder.names()
    lease.release()
    assert folder.names() == before
    if how == "higher number":
        assert numbers(folder) == [2]


def test_storage_that_fails_for_long_counts_as_lost(folder, monkeypatch):
    lease = acquire(folder, 0.4)

    def fail(*_args, **_kwargs):
        raise OSError("gone away")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", fail)
        lease.beat()
        assert not lease.lost
        until(lambda: lease.lost)
    heartbeats.stop(lease)


def test_storage_that_fails_for_a_moment_does_not(folder, monkeypatch):
    lease = acquire(folder, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", lambda *_args, **_kw: (_ for _ in ()).throw(OSError("blip")))
        lease.beat()
    lease.beat()
    lease.check()
    lease.release()


def test_processes_are_judged_on_this_machine_alone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    told = {**processes.this_process(), "pid": child.pid}
    alive = {**told, "started": processes._started(child.pid)}
    assert not processes.is_dead(alive)
    assert processes.is_dead({**alive, "started": "1"})  # its number was given away
    child.kill()
    until(lambda: processes.is_dead(alive))  # a corpse that nobody fetched yet is dead
    child.communicate()
    assert processes.is_dead(alive)
    for field in ("host", "boot", "namespace"):
        assert not processes.is_dead({**alive, field: "another"})
    for pid in (None, "1", 0, -1, True, 2**40):
        assert not processes.is_dead({**alive, "pid": pid})


def test_a_dropped_attempt_gives_its_lease_back(store):
    attempt = store.claim(Toy())
    assert store.claim(Toy()) is None
    del attempt
    gc.collect()
    with store.claim(Toy()) as attempt:
        assert not attempt.lost


@pytest.mark.parametrize("end", ["leave", "bare", "raise", "SIGTERM"])
def test_no_lease_outlives_its_process(store, end):
    script = f"""
import os, signal, sys
from tests.storage_schemas.toys import Toy
from soapworks.storage_schemas.leasing.leases import acquire
from soapworks.storage_schemas.store import Store
store = Store({store.url!r}, lease_seconds=3600)
if {end!r} == "bare":
    lease = acquire(store.address(Toy()), 3600)
else:
    attempt = store.claim(Toy())
print("holding", flush=True)
if {end!r} == "raise":
    raise RuntimeError("on purpose")
if {end!r} == "SIGTERM":
    sys.stdin.readline()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout.readline() == b"holding\n"
    if end == "SIGTERM":
        assert numbers(store.address(Toy())) == [1]
        child.send_signal(signal.SIGTERM)
    child.communicate(timeout=DEADLINE)
    assert child.returncode == {"raise": 1, "SIGTERM": 143}.get(end, 0)
    assert numbers(store.address(Toy())) == []


def test_numbers_do_not_end(folder, clock):
    put(folder, 999999)
    assert not read_lease(folder).expired
    clock.now += 11
    lease = acquire(folder, 5)
    lease.check()
    assert numbers(folder) == [1000000]
    lease.release()


def test_who_comes_late_with_a_lower_number_does_not_hold(folder, monkeypatch):
    # Between looking and creating, others took over, and the lower numbers are free again.
    monkeypatch.setattr(leases, "read_lease", lambda _folder, **_: None)
    put(folder, 5)
    assert acquire(folder, 5) is None
    assert numbers(folder) == [5]


def test_held_refuses_while_another_works(folder):
    put(folder)
    refused = pytest.raises(StoreError, match=r"is being worked on \(host elsewhere")
    with refused, leases.held(folder, 5):
        pass
