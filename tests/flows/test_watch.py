"""``soapworks watch`` as its users and a Prefect server meet it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from soapworks.storage_schemas.store import Store
from tests.small import write_checkpoint, write_photographs

pytestmark = pytest.mark.server

SETTINGS = {"layers": "norm", "synthetic_images": 6, "block_images": 4, "segment_images": 8}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photographs", 9)
    write_checkpoint(tmp_path / "checkpoints/step_1000", seed=1)
    return tmp_path


def command(place: Path, *more: str) -> list[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    return [
        *(
            sys.executable,
            "-m",
            "soapworks.flows.cli",
            "watch",
            "checkpoints",
            "--images",
            "photographs",
        ),
        *options,
        *("--device=cpu", "--stable-seconds=0.2", "--backoff-seconds=900", *more),
    ]


def environment(server: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PREFECT_API_URL": server}


def post(api: str, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{api}/{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def events(api: str, place: Path, n: int) -> list[dict[str, Any]]:
    """Return the events about a folder once there are n, oldest first: they arrive later."""
    end = time.monotonic() + 60
    while True:
        body = {"filter": {"event": {"prefix": ["soapworks.checkpoint"]}}, "limit": 50}
        found = [
            event
            for event in post(api, "events/filter", body)["events"]
            if event["payload"]["folder"] == str(place / "checkpoints")
        ]
        if len(found) >= n:
            return sorted(found, key=lambda event: event["occurred"])
        assert time.monotonic() < end, f"{len(found)} of {n} events arrived"
        time.sleep(0.2)


def test_two_commands_at_once_do_everything_once(place: Path, prefect_server: str) -> None:
    write_checkpoint(place / "checkpoints/step_2000", seed=2)
    (place / "checkpoints/optimizer.pt").write_bytes(b"never opened")
    (place / "checkpoints/step_3.pt").write_bytes(b"no tensors")
    running = [
        subprocess.Popen(
            command(place, "--once", "--json"),
            cwd=place,
            env=environment(prefect_server),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    both = [process.communicate(timeout=280) for process in running]
    assert not any("Traceback" in said for _, said in both), both
    outcomes = [{one["path"]: one["outcome"] for one in json.loads(out)} for out, _ in both]
    done = sorted((path, what) for each in outcomes for path, what in each.items())
    assert [one for one in done if one[1] != "left"] == [
        *(("step_1000", "scored"), ("step_2000", "scored"), ("step_3.pt", "failed")),
    ]
    # Who failed says so, in a sentence and by its status.
    for process, (_, said), each in zip(running, both, outcomes, strict=True):
        failed = [line for line in said.splitlines() if line.startswith("soapworks:")]
        assert process.returncode == len(failed) == ("failed" in each.values())
    assert len(Store(place / "store").products("heads")) == 2
    told = [
        (one["event"].rpartition(".")[2], one["payload"]["path"], one["payload"]["step"])
        for one in events(prefect_server, place, 6)
    ]
    assert sorted(told) == [
        *(("arrived", "step_1000", 1000), ("arrived", "step_2000", 2000)),
        ("arrived", "step_3.pt", 3),
        *(("failed", "step_3.pt", 3), ("scored", "step_1000", 1000)),
        ("scored", "step_2000", 2000),
    ]
    flow_runs = post(
        prefect_server,
        "flow_runs/filter",
        {"flow_runs": {"name": {"any_": [f"watch {place / 'checkpoints'}"]}}},
    )
    artifacts = post(prefect_server, "artifacts/filter", {"limit": 100})
    ours = {run["id"] for run in flow_runs}
    mine = [(a["type"], a["data"]) for a in artifacts if a["flow_run_id"] in ours]
    assert any(data.startswith("data:image/png;base64,") for kind, data in mine if kind == "image")
    assert any(
        "| 1000 |" in data and "| 2000 |" in data for kind, data in mine if kind == "markdown"
    )
    # Nothing is due now, so nobody asks for a server and a dead one does no harm.
    again = subprocess.run(
        command(place, "--once", "--json"),
        cwd=place,
        env=environment("http://dead:1"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (again.returncode, json.loads(again.stdout)) == (0, [])
    assert "1 waiting" in again.stderr
    assert "2 done" in again.stderr


@pytest.fixture
def parameters(place: Path, prefect_server: str) -> Iterator[dict[str, Any]]:
    from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    given = {
        "folder": str(place / "checkpoints"),
        "images": str(place / "photographs"),
        "settings": SETTINGS,
        "options": {"store": str(place / "store"), "device": "cpu", "workers": 2},
    }
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield given


def test_an_event_has_all_that_its_flow_needs_and_the_flow_may_run_twice(
    place: Path, prefect_server: str, parameters: dict[str, Any]
) -> None:
    from soapworks.flows.watch import score_arrival, watch_checkpoints

    announcing = parameters | {"watching": {"start": "event", "stable_seconds": 0.1}}
    (announced,) = watch_checkpoints(**announcing)
    assert announced["outcome"] == "announced"
    assert watch_checkpoints(**announcing) == []
    (event,) = events(prefect_server, place, 1)
    assert event["event"] == "soapworks.checkpoint.arrived"
    assert event["resource"]["prefect.resource.id"].startswith("soapworks.checkpoint.step-1000-")
    names = ("folder", "checkpoint", "images", "architecture", "settings", "options", "watching")
    given = {name: event["payload"][name] for name in names}
    assert given["checkpoint"] == str(place / "checkpoints/step_1000")
    assert score_arrival(**given)["outcome"] == "scored"
    again = score_arrival(**given)
    assert (again["outcome"], again["why"]) == ("left", "scored")
    assert watch_checkpoints(**announcing) == []
    kinds = [one["event"].rpartition(".")[2] for one in events(prefect_server, place, 2)]
    assert kinds == ["arrived", "scored"]
    # The head that the store has is the one that the row told of.
    (head,) = Store(place / "store").products("heads")
    (state,) = (place / "store/watch").glob("*/checkpoints/*/state.json")
    (scores,) = json.loads(state.read_text())["scores"]
    assert {name: head.facts[name] for name in scores if name in head.facts} == {
        name: scores[name] for name in scores if name in head.facts
    }
    assert scores["key"] == head.key


def test_an_arrival_that_fails_fails_its_run_and_is_remembered(
    place: Path, prefect_server: str, parameters: dict[str, Any]
) -> None:
    from soapworks.errors import InputError, SoapworksError
    from soapworks.flows.watch import score_arrival

    (place / "checkpoints/step_2.pt").write_bytes(b"no tensors")
    given = parameters | {"watching": {"stable_seconds": 0.1}}
    with pytest.raises(SoapworksError, match=r"step_2\.pt failed: .*tried again in 0:01:00"):
        score_arrival(checkpoint="step_2.pt", **given)
    assert "--architecture" in score_arrival(checkpoint="step_2.pt", **given)["why"]
    with pytest.raises(InputError, match="there is no checkpoint step_3"):
        score_arrival(checkpoint="step_3.pt", **given)
