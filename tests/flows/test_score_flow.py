"""The main job under Prefect, as a command: runs, task runs, artifacts, and the second call."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from soapworks import SoapHead
from tests.small import write_checkpoint, write_photographs

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    write_checkpoint(folder / "model")
    write_photographs(folder / "photographs", 9)
    return folder


def soapworks(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "error::ResourceWarning",
        "-m",
        "soapworks.flows.cli",
        *arguments,
    ]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment},
        timeout=280,
        check=False,
    )


def score(place: Path, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    run = soapworks(
        place,
        *("score", "./model", "--images", "photographs", "--synthetic-images", "6"),
        *("--block-images", "4", "--segment-images", "8", "--device", "cpu", "--json"),
        *arguments,
        **environment,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return json.loads(run.stdout)


def test_one_command_on_a_running_server(place: Path, prefect_server: str) -> None:
    rows = score(place, "--store", "on_server", PREFECT_API_URL=prefect_server)
    assert [row["layer"] for row in rows] == ["blocks.0", "blocks.1", "norm"]
    assert not any(row["cached"] for row in rows)
    head = SoapHead.load(rows[-1]["head"])
    assert head.weight.shape == (24, 24)
    flow_run, parent = newest_runs(prefect_server)
    assert flow_run["name"] == parent["name"] == "score ./model"
    assert {flow_run["state"]["type"], parent["state"]["type"]} == {"COMPLETED"}
    tasks = post(
        prefect_server,
        "task_runs/filter",
        {"task_runs": {"flow_run_id": {"any_": [flow_run["id"]]}}},
    )
    names = {task["name"] for task in tasks}
    assert names == {
        "identify ./model",
        "extract ./model · real",
        "extract ./model · synthetic",
        "report ./model",
        *(
            f"{stage} ./model · {layer}"
            for stage in ("pca", "score", "head")
            for layer in ("blocks.0", "blocks.1", "norm")
        ),
    }
    both = {"artifacts": {"flow_run_id": {"any_": [flow_run["id"], parent["id"]]}}}
    artifacts = post(prefect_server, "artifacts/filter", both)
    mine = [a for a in artifacts if a["flow_run_id"] == parent["id"]]
    assert [len(json.loads(a["data"])) for a in mine if a["type"] == "table"] == [3]
    of_model = [a for a in artifacts if a["flow_run_id"] == flow_run["id"]]
    progress = {a["description"].split(" in ")[0]: a for a in of_model if a["type"] == "progress"}
    assert set(progress) == {"9 images", "6 images", "3 layers"}
    assert {a["data"] for a in progress.values()} == {100.0}
    named = {task["id"]: task["name"] for task in tasks}
    assert named[progress["9 images"]["task_run_id"]] == "extract ./model · real"
    (report,) = (place / "on_server" / "reports").glob("vit*.html")
    texts = {a["key"]: a["data"] for a in of_model if a["type"] == "markdown"}
    assert str(report) in texts[f"soapworks-report-{dashed(report)}"]
    assert "data:image/png;base64," in texts[f"soapworks-components-{dashed(report)}"]


def test_without_features_the_real_images_pass_twice(place: Path, prefect_server: str) -> None:
    streamed = ("--keep-features", "none", "--layers", "norm")
    score(place, "--store", "streamed", *streamed, PREFECT_API_URL=prefect_server)
    flow_run, _ = newest_runs(prefect_server)
    tasks = post(
        prefect_server,
        "task_runs/filter",
        {
            "task_runs": {"flow_run_id": {"any_": [flow_run["id"]]}},
            "sort": "EXPECTED_START_TIME_ASC",
        },
    )
    assert [task["name"] for task in tasks] == [
        "identify ./model",
        "extract ./model · real",
        "pca ./model · norm",
        "respond ./model · real",
        "respond ./model · synthetic",
        "score ./model · norm",
        "head ./model · norm",
        "report ./model",
    ]
    assert not (place / "streamed" / "features").exists()


def test_what_was_there_shows_as_cached(place: Path, prefect_server: str) -> None:
    score(place, "--store", "again", "--layers", "norm", PREFECT_API_URL=prefect_server)
    rows = score(place, "--store", "again", "--mu", "3", PREFECT_API_URL=prefect_server)
    assert len(rows) == 3
    flow_run, _ = newest_runs(prefect_server)
    tasks = post(
        prefect_server,
        "task_runs/filter",
        {"task_runs": {"flow_run_id": {"any_": [flow_run["id"]]}}},
    )
    states = {task["name"]: task["state_name"] for task in tasks}
    assert states["identify ./model"] == "Cached"
    assert states["pca ./model · norm"] == "Cached"
    assert states["head ./model · norm"] == "Completed"
    assert states["pca ./model · blocks.0"] == "Completed"


def test_one_command_with_nothing_started_and_again(place: Path) -> None:
    first = score(place, "--store", "alone", "--layers", "norm")
    second = score(place, "--store", "alone", "--layers", "norm", PREFECT_API_URL="http://dead:1")
    # With everything there nobody asks for a server, so a dead one does no harm.
    assert [row["cached"] for row in first + second] == [False, True]
    assert first[0]["key"] == second[0]["key"]


def test_a_failing_run_says_one_sentence(place: Path, prefect_server: str) -> None:
    run = soapworks(
        place,
        *("score", "./model", "--images", "photographs", "--store", "refused", "--quiet"),
        *("--device", "cuda:9"),
        PREFECT_API_URL=prefect_server,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    (line,) = run.stderr.strip().splitlines()
    assert "cuda:9" in line


def dashed(report: Path) -> str:
    return report.stem.replace("_", "-")


def newest(api: str, n: int) -> list[dict[str, Any]]:
    """Return the newest flow runs that have started; other tests' schedules reach ahead."""
    started = {"state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED"]}}}
    body = {"flow_runs": started, "sort": "START_TIME_DESC", "limit": n}
    return post(api, "flow_runs/filter", body)


def newest_runs(api: str) -> list[dict[str, Any]]:
    """Return the newest run of a checkpoint, and the run that it is part of."""
    return newest(api, 2)


def post(api: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{api}/{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()
