"""A command's engine: our own server for its length, or the one that is named."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from soapworks.errors import EngineError
from soapworks.flows.engine.session import Engine, orchestrated

PROGRAM = """
import json, sys
from soapworks.flows.engine.session import orchestrated
with orchestrated(quiet=False) as engine:
    from prefect import flow, task

    @task
    def double(n):
        return 2 * n

    @flow
    def doubled():
        return [double(n) for n in range(3)]

    print(json.dumps([doubled(), engine.server_pid]))
"""


@pytest.fixture(autouse=True)
def without_a_named_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_importing_the_engine_imports_no_prefect() -> None:
    code = "import soapworks.flows.engine.session, sys; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


@pytest.mark.server
def test_server_is_ours_and_on_loopback(engine: Engine) -> None:
    assert engine.server_pid is not None
    (listening,) = {
        c.laddr
        for c in psutil.Process(engine.server_pid).net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening.ip == "127.0.0.1"
    assert engine.api_url == f"http://127.0.0.1:{listening.port}/api"


@pytest.mark.server
def test_server_has_a_session_of_its_own(engine: Engine) -> None:
    assert engine.server_pid
    assert os.getsid(engine.server_pid) != os.getsid(0)


@pytest.mark.server
def test_flow_and_task_runs_are_seen_by_the_api(engine: Engine) -> None:
    from prefect import flow, task
    from prefect.client.orchestration import get_client

    @task(task_run_name="measured")
    def length(word: str) -> int:
        return len(word)

    @flow(name="lengths")
    def lengths() -> int:
        return length("soap")

    assert lengths() == 4
    with get_client(sync_client=True) as client:
        end = time.monotonic() + 20
        while not (tasks := client.read_task_runs()) and time.monotonic() < end:
            time.sleep(0.05)  # task runs are recorded behind the flow's back
        (run,) = client.read_flow_runs()
    assert run.state_name == "Completed"
    assert [task.name for task in tasks] == ["measured"]


@pytest.mark.server
def test_flow_run_does_not_wait_for_a_heartbeat(engine: Engine) -> None:
    from prefect.settings import get_current_settings

    assert get_current_settings().flows.heartbeat_frequency is None


@pytest.mark.server
def test_command_inside_another_uses_its_server(engine: Engine) -> None:
    with orchestrated() as inner:
        assert inner.server_pid is None
        assert inner.api_url == engine.api_url


@pytest.mark.server
def test_two_commands_at_once_one_of_which_fails() -> None:
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for program in (PROGRAM, PROGRAM + "    raise SystemExit('spilt')\n")
    ]
    outputs = [command.communicate(timeout=200) for command in commands]
    results = [json.loads(out) for out, _ in outputs]  # nothing else on stdout
    assert [values for values, _ in results] == [[0, 2, 4]] * 2
    assert len({pid for _, pid in results}) == 2
    assert not any(psutil.pid_exists(pid) for _, pid in results)
    assert [err for _, err in outputs] == [b"", b"spilt\n"]
    assert [command.returncode for command in commands] == [0, 1]


def test_named_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    began = time.monotonic()
    with pytest.raises(EngineError, match=rf"{url}.*prefect server start"), orchestrated():
        pass
    assert time.monotonic() - began < 10


def test_server_of_the_active_profile_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9/profile"\n'
    )
    module = "soapworks.flows.engine.configuration"
    code = f"from {module} import configured_api_url as url; print(url())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert answer.stdout == "http://127.0.0.1:9/profile\n"


@pytest.mark.server
def test_named_server_is_used_and_left_alone(prefect_server: str) -> None:
    with orchestrated() as engine:
        assert (engine.api_url, engine.server_pid) == (prefect_server, None)
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        assert client.api_healthcheck() is None


def test_signals_are_left_alone_outside_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    errors: list[Exception] = []

    def command() -> None:
        try:
            with orchestrated():
                pass
        except EngineError as error:
            errors.append(error)

    thread = threading.Thread(target=command)
    thread.start()
    thread.join()
    assert len(errors) == 1
