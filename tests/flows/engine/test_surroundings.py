"""Commands in odd surroundings: proxies, no home, broken settings; each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from soapworks.errors import EngineError
from soapworks.flows.engine.session import orchestrated
try:
    with orchestrated():
        from prefect import flow
        print(flow(lambda: "done", name="f")())
except EngineError as error:
    sys.exit(str(error))
"""
NOBODY = """
import pwd
def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = getpwuid
"""


def run(folder: Path, **changes: str | None) -> tuple[str, str]:
    """Return what a command prints on stdout and stderr."""
    env: dict[str, str | None] = {**os.environ, "PYTHONPATH": os.getcwd(), **changes}  # noqa: PTH109
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={name: value for name, value in env.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.server
@pytest.mark.parametrize(
    "proxies",
    [
        {"ALL_PROXY": "socks5h://127.0.0.1:1"},
        {"all_proxy": "socks4://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"},
        {"http_proxy": "socks5://127.0.0.1:1", "https_proxy": "ftp://127.0.0.1:1"},
        {"HTTP_PROXY": "http://127.0.0.1:99999", "ALL_PROXY": "::"},
    ],
    ids=["socks5h", "socks4", "by scheme", "invalid"],
)
def test_no_proxy_is_asked_for_our_own_server(tmp_path: Path, proxies: dict[str, str]) -> None:
    assert run(tmp_path, **proxies) == ("done", "")


def test_proxy_of_a_named_server(tmp_path: Path) -> None:
    url, proxy = "http://prefect.example.org/api", "socks5h://user:s3cret@127.0.0.1:1"
    _, message = run(tmp_path, PREFECT_API_URL=url, ALL_PROXY=proxy)
    assert "socksio" in message
    assert "unset ALL_PROXY" in message
    assert "s3cret" not in message


@pytest.mark.server
def test_neither_home_nor_an_entry_in_the_list_of_users(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    path = f"{tmp_path}{os.pathsep}{os.getcwd()}"  # noqa: PTH109
    names = ("HOME", "PREFECT_HOME", "SOAPWORKS_HOME")
    (tmp_path / "tmp").mkdir()
    absent = dict.fromkeys(names)
    found = run(tmp_path, PYTHONPATH=path, TMPDIR=str(tmp_path / "tmp"), **absent)
    assert found == ("done", "")
    assert not list((tmp_path / "tmp").iterdir())


def test_profiles_that_are_no_toml(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('active = "mine\n[profiles')
    _, message = run(tmp_path, PREFECT_HOME=str(tmp_path))
    assert message.startswith(f"Prefect's settings cannot be read from {tmp_path}/profiles.toml (")
    assert "line 1" in message
    assert message.endswith("correct or remove that file")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("profiles.toml", b'active = "mine"\n[profiles.mine]\nPREFECT_API_REQUEST_TIMEOUT = "q"\n'),
        ("profiles.toml", b"profiles = 3\n"),
        ("profiles.toml", b"\xff\xfe"),
        ("prefect.toml", b"= 1"),
        ("prefect.toml", b"[api]\nrequest_timeout = 's3cret'\n"),
        ("pyproject.toml", b"= 1"),
        (".env", b"PREFECT_API_REQUEST_TIMEOUT=s3cret\n"),
    ],
)
def test_settings_that_prefect_refuses(tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / name).write_bytes(text)
    _, message = run(tmp_path, PREFECT_HOME=str(tmp_path))
    assert name in message
    assert "correct" in message
    assert "s3cret" not in message
    assert "\n" not in message


def test_environment_that_prefect_refuses(tmp_path: Path) -> None:
    _, message = run(tmp_path, PREFECT_API_REQUEST_TIMEOUT="s3cret")
    assert message.startswith("Prefect cannot use its settings (request_timeout: ")
    assert "s3cret" not in message
    assert "\n" not in message
