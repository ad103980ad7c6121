"""The deployments file, on a server as operators run it."""

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
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


SETTINGS = {
    "SOAPWORKS_STORE": "/works/store",
    "SOAPWORKS_IMAGES": "/works/photographs",
    "SOAPWORKS_CHECKPOINTS": "/works/checkpoints",
    "SOAPWORKS_MODEL_LIST": "/works/models.yaml",
}
"""As in deployments/settings.env; what may be empty is not set."""


@pytest.fixture(scope="module")
def deployed(prefect_server_url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    deploy(FILE, prefect_server_url, "soapworks", **SETTINGS)
    with temporary_settings({PREFECT_API_URL: prefect_server_url}):
        yield


def deploy(file: Path, server: str, pool: str, **variables: str) -> None:
    """Do what an operator does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    changes = {"PREFECT_API_URL": server, "SOAPWORKS_POOL": pool, "PATH": path, **variables}
    done = subprocess.run(
        ["sh", "deployments/deploy.sh", str(file)],
        cwd=PROJECT,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def as_flow(entrypoint: str) -> Any:
    """Return what an entrypoint names."""
    path, name = entrypoint.split(":")
    assert (PROJECT / path).is_file()
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_entrypoints_are_flows(deployments: list[dict[str, Any]]) -> None:
    from prefect import Flow

    assert {d["name"] for d in deployments} == {"score", "nightly", "watch", "arrival", "verify"}
    for deployment in deployments:
        assert isinstance(as_flow(deployment["entrypoint"]), Flow)


def test_every_variable_is_told_of(deployments: list[dict[str, Any]]) -> None:
    used = set(re.findall(r"\{\{ \$(\w+) \}\}", FILE.read_text()))
    told = set(re.findall(r"^(\w+)=", FILE.with_name("settings.env").read_text(), re.MULTILINE))
    assert used == told | {"SOAPWORKS_PROJECT"}


@pytest.mark.server
def test_parameters_are_the_flows(deployed: None, deployments: list[dict[str, Any]]) -> None:
    from prefect.client.orchestration import get_client

    for each in deployments:
        flow = as_flow(each["entrypoint"])
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(f"{flow.name}/{each['name']}")
        if each["name"] == "arrival":
            assert deployment.parameters == {}  # the event brings them
            continue
        validated = flow.validate_parameters(deployment.parameters)
        options = validated.get("options")
        where = options.store if options else validated["store"]
        assert where == "/works/store"
        assert options is None or (options.dask, options.concurrency_limit) == (None, None)


@pytest.mark.server
def test_schedules_and_pull_steps(deployed: None) -> None:
    from prefect.client.orchestration import get_client

    schedules = {}
    with get_client(sync_client=True) as client:
        for name in ("score/score", "score/nightly", "watch/watch", "verify/verify"):
            deployment = client.read_deployment_by_name(name)
            assert deployment.work_pool_name == "soapworks"
            assert deployment.pull_steps == [
                {
                    "prefect.deployments.steps.set_working_directory": {
                        "directory": "{{ $SOAPWORKS_PROJECT }}"
                    }
                }
            ]
            schedules[name] = [one.schedule for one in deployment.schedules]
    assert schedules["score/score"] == []
    assert [one.cron for one in schedules["score/nightly"]] == ["0 2 * * *"]
    assert [one.interval.total_seconds() for one in schedules["watch/watch"]] == [300]
    assert [one.cron for one in schedules["verify/verify"]] == ["0 4 * * 0"]


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
