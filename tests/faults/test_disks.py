"""Disks that are full, read-only or broken: a sentence, and the next run goes on."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.arena import Arena
from tests.faults.many import inject
from tests.faults.moments import moments
from tests.faults.primitives import CHANGES, FULL

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("kind", "first"), [("full", 5000), ("readonly", 5100)])
def test_nothing_can_be_written_from_some_step_on(arena: Arena, kind: str, first: int) -> None:
    n = sum(step in (FULL if kind == "full" else CHANGES) for step, _ in arena.steps())

    def one(seed: int) -> None:
        from tests.faults.primitives import Fault

        arena.disturb(Fault(kind, random.Random(seed).randrange(1, n + 1), seed=seed))

    inject(range(first, first + 14), one)


def test_one_step_fails(arena: Arena) -> None:
    possible = moments(arena.steps())

    def one(seed: int) -> None:
        arena.disturb(random.Random(seed).choice(possible).fault("broken", seed))

    inject(range(5200, 5224), one)


def test_one_step_fails_without_features(arena: Arena) -> None:
    possible = moments(arena.steps("none"))

    def one(seed: int) -> None:
        arena.disturb(random.Random(seed).choice(possible).fault("broken", seed), keep="none")

    inject(range(5300, 5306), one)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    return mount


def test_a_real_disk_that_grows_step_by_step(arena: Arena, small_disk: Path) -> None:
    """Full again and again, at other places every time; each run gets a little further."""
    store = small_disk / "store"
    sizes = [*range(64, 1024, 64)]
    try:
        for size in sizes:
            options = f"remount,size={size}k"
            subprocess.run(["mount", "-o", options, str(small_disk)], check=True)
            outcome = arena.start(store).wait()
            arena.check_visible(store)
            if outcome.finished:
                break
            assert outcome.clear, outcome.log
            assert "space" in (outcome.error or "")
            arena.counts["full disk"] += 1
        assert sizes.index(size) > 3
        arena.check_recovers(store)
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
