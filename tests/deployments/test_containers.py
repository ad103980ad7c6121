"""Container files and pool templates, as far as they can be checked without a container engine."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deployments"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def test_every_setting_reaches_the_flows(services: dict[str, Any]) -> None:
    told = re.findall(r"^(\w+)=", (FOLDER / "settings.env").read_text(), re.MULTILINE)
    for name in ("worker", "deploy"):
        assert set(told) <= set(services[name]["environment"])


def test_services_wait_for_services_that_are_there(services: dict[str, Any]) -> None:
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_is_written_down() -> None:
    for line in (FOLDER / "compose.yaml").read_text().splitlines():
        if re.search(r"PASSWORD|SECRET|AUTH_STRING", line) and ":" in line:
            assert "${SOAPWORKS_PASSWORD:?" in line or "$$SECRET" in line, line


def test_the_image_has_what_the_project_imports() -> None:
    """What the image leaves out by .dockerignore is nothing that is installed."""
    left_out = (FOLDER.parent / ".dockerignore").read_text().split()
    packages = {"soapworks", "storage_schemas", "tasks", "flows", "deployments"}
    assert packages.isdisjoint(left_out)
    copied = re.findall(r"^COPY (.+)$", (FOLDER / "Containerfile").read_text(), re.MULTILINE)
    assert copied == ["pyproject.toml requirements.lock ./", ". ."]


@pytest.mark.server
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_pools_of_the_templates(prefect_server: str, kind: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    template = json.loads((FOLDER / "pools" / f"{kind}.json").read_text())
    wanted = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert wanted == set(template["variables"]["properties"])
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name=f"of-{kind}", type=kind, base_job_template=template)
        client.create_work_pool(pool)
        kept = client.read_work_pool(f"of-{kind}")
        client.delete_work_pool(f"of-{kind}")
    assert kept.base_job_template == template
