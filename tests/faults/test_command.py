"""The whole command, killed: no server is left behind, and the same command ends in the bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults import oracle
from tests.faults.arena import DEADLINE, Arena

pytestmark = [pytest.mark.faults, pytest.mark.server, pytest.mark.timeout(600)]


def start(arena: Arena, store: Path, log: Path) -> "subprocess.Popen[bytes]":
    request = arena.request(store)
    arguments = [
        *("score", request.checkpoint, "--images", request.images, "--store", str(store)),
        *("--synthetic-images", "6", "--block-images", "4", "--segment-images", "8"),
        *("--layers", "blocks.1,norm", "--device", "cpu", "--batch-size", "4", "--workers", "2"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "soapworks.flows.cli", *arguments],
            stdout=out,
            stderr=out,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        )


@pytest.mark.parametrize("seed", [9000, 9001])
def test_killed_command(arena: Arena, tmp_path: Path, seed: int) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    # The first is killed in the middle of the features, the second somewhere after them.
    kind = "features" if seed == 9000 else "pca"
    run = start(arena, store, log)
    try:
        family = _until(lambda: any(store.glob(f"{kind}/*/*")) and _family(run), run, log)
        time.sleep(random.Random(seed).uniform(0, 0.2))
        run.send_signal(signal.SIGKILL)
        assert run.wait(DEADLINE) == -signal.SIGKILL
        arena.counts["kill"] += 1
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == [], "something of the command lives on"
    finally:
        run.kill()
        run.wait()
    arena.check_visible(store)
    again = start(arena, store, log)
    assert again.wait(DEADLINE) == 0, log.read_text()[-3000:]
    # What the command makes for people to read, and the stages alone do not.
    (store / "leaderboard.parquet").unlink()
    shutil.rmtree(store / "reports", ignore_errors=True)
    arena.check_whole(store)
    assert set(oracle.published(store)) == set(arena.expected)
    assert json.loads((next(store.glob("heads/*/record.json"))).read_bytes())["kind"] == "heads"


def _family(run: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(run.pid).children(recursive=True)


def _until(condition: Callable[[], Any], run: "subprocess.Popen[bytes]", log: Path) -> Any:
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert run.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.005)
    return found
