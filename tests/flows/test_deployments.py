"""The deployments file, on a server as operators run it."""

import importlib
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "deployments" / "prefect.yaml"


@pytest.fixture(scope="module")
def deployments() -> list[dict[str, Any]]:
    return yaml.safe_load(FILE.read_text())["deployments"]


@pytest.fixture
def deployed(prefect_server: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="soapworks", type="process"))
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", FILE],
        cwd=PROJECT,
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_entrypoints_are_flows(deployments: list[dict[str, Any]]) -> None:
    from prefect import Flow

    for deployment in deployments:
        path, name = deployment["entrypoint"].split(":")
        assert (PROJECT / path).is_file()
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert isinstance(getattr(module, name), Flow)


def test_parameters_are_the_flows(deployments: list[dict[str, Any]]) -> None:
    from flows.score import score_checkpoints

    (score,) = [d for d in deployments if d["name"] == "score"]
    validated = score_checkpoints.validate_parameters(score["parameters"])
    assert validated["options"].store == score["parameters"]["options"]["store"]


@pytest.mark.server
def test_deploy_all(deployed: None) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("score/score")
    assert deployment.work_pool_name == "soapworks"
    assert deployment.entrypoint == "flows/score.py:score_checkpoints"
    assert not deployment.schedules
    assert deployment.pull_steps == [
        {
            "prefect.deployments.steps.set_working_directory": {
                "directory": "{{ $SOAPWORKS_PROJECT }}"
            }
        }
    ]


@pytest.mark.server
def test_schedules_fire(prefect_server: str) -> None:
    """With SQLAlchemy 2.1 the server looks healthy and never schedules; later fastapi kills it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.schedules import CronSchedule

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow_from_name("ticking"),
            "hourly",
            schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron="0 * * * *"))],
        )
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        end = time.monotonic() + timedelta(minutes=2).total_seconds()
        while not (runs := client.read_flow_runs(deployment_filter=wanted)):
            assert time.monotonic() < end, "no run was scheduled"
            time.sleep(0.2)
        client.delete_deployment(deployment)
    assert all(run.auto_scheduled for run in runs)
