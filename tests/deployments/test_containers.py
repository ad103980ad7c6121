"""Container files and pool templates, as far as they can be checked without a container engine."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deployments"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def test_every_setting_reaches_the_flows(services: dict[str, Any]) -> None:
    names = re.findall(r"^(\w+)=", (FOLDER / "settings.env").read_text(), re.MULTILINE)
    for name in ("worker", "deploy"):
        assert set(names) <= set(services[name]["environment"])


def test_services_wait_for_services_that_are_there(services: dict[str, Any]) -> None:
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_has_a_password_of_its_own(services: dict[str, Any]) -> None:
    used: dict[str, set[str]] = {}
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH_STRING", name) and value:
                (variable,) = re.fullmatch(r"(?:admin:)?\$\{(\w+):\?[^}]+\}", value).groups()
                used.setdefault(variable, set()).add(name)
    assert used == {
        "SOAPWORKS_API_PASSWORD": {"PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"},
        "SOAPWORKS_DATABASE_PASSWORD": {"POSTGRES_PASSWORD", "PREFECT_SERVER_DATABASE_PASSWORD"},
        "SOAPWORKS_S3_PASSWORD": {"AWS_SECRET_ACCESS_KEY", "SECRET"},
    }


PASSWORDS = ["simple", "p@ss:w/rd?#%", 'quo"te\\back$lash %s', "spa ce'apostrophe"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_password_of_the_database_is_escaped(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    from prefect.settings.models.root import Settings
    from sqlalchemy import make_url

    for name, value in services["prefect"]["environment"].items():
        if "_DATABASE_" in name:
            monkeypatch.setenv(name, password if name.endswith("PASSWORD") else value)
    kept = Settings().server.database.connection_url
    assert kept is not None
    url = make_url(kept.get_secret_value())
    assert (url.username, url.password, url.host) == ("prefect", password, "database")


@pytest.mark.parametrize("password", PASSWORDS)
def test_password_of_the_s3_server_is_escaped(
    services: dict[str, Any], tmp_path: Path, password: str
) -> None:
    (script,) = services["s3"]["command"]
    script = script.replace("$$", "$").replace("/tmp/s3.json", "s3.json").replace("exec weed", ":")
    shell = ["/bin/sh", "-c", script]
    subprocess.run(shell, cwd=tmp_path, env={**os.environ, "SECRET": password}, check=True)
    (identity,) = json.loads((tmp_path / "s3.json").read_text())["identities"]
    assert identity["credentials"] == [{"accessKey": "soapworks", "secretKey": password}]
    assert (tmp_path / "s3.json").stat().st_mode & 0o077 == 0


def test_dask_is_reached_by_those_that_need_it(services: dict[str, Any]) -> None:
    """Whoever reaches the scheduler's port runs code there."""
    joined = {name for name, service in services.items() if "dask" in service.get("networks", ())}
    assert joined == {"scheduler", "compute", "worker"}
    assert services["scheduler"]["networks"] == ["dask"]
    ports = [port for name in joined for port in services[name].get("ports", ())]
    assert ports == ["127.0.0.1:8787:8787"]  # the dashboard


def test_no_command_shown_opens_dask_to_the_network() -> None:
    """Every scheduler in the documentation listens on loopback or asks for certificates."""
    project = FOLDER.parent
    pages = [*FOLDER.glob("*.md"), project / "README.md", project / "CONTRIBUTING.md"]
    shown = "\n".join(page.read_text() for page in pages)
    schedulers = re.findall(r"^dask scheduler .*$", shown, re.MULTILINE)
    assert schedulers
    for command in schedulers:
        assert "--host 127.0.0.1" in command or "--protocol tls" in command
    for command in re.findall(r"dask worker \S+", shown):
        assert re.search(r" (tcp://127\.0\.0\.1|tls://)", command), command


def test_images_are_pinned_by_exact_tags(services: dict[str, Any]) -> None:
    used = {service["image"] for service in services.values()} - {"soapworks"}
    containerfile = (FOLDER / "Containerfile").read_text()
    used |= set(re.findall(r"^FROM (\S+)$", containerfile, re.MULTILINE))
    assert len(used) == 3
    for image in used:
        assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z-]+)?$", image), image
    assert re.search(r"pip install \S+ uv==\d+\.\d+\.\d+ ", containerfile)


def test_the_run_user_cannot_change_the_code() -> None:
    text = (FOLDER / "Containerfile").read_text()
    owned = re.findall(r"chown -R soapworks (.+?)(?: \\)?$", text, re.MULTILINE)
    assert owned == ["/var/lib/soapworks"]
    assert not re.search(r"COPY --chown|chmod", text)
    assert text.index("COPY . .") < text.index("USER soapworks")


def test_the_image_has_what_the_project_imports() -> None:
    """Nothing that is installed, or linked to, is left out by .dockerignore."""
    left_out = (FOLDER.parent / ".dockerignore").read_text().split()
    packages = {"soapworks", "storage_schemas", "tasks", "flows", "deployments"}
    assert packages.isdisjoint(left_out)
    secret = {".env", ".env.*", "*.env", "**/.env", "**/.env.*", "**/*.env", "**/*.key", "**/*.pem"}
    assert secret <= set(left_out)
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
