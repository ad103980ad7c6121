"""Progress in Prefect's pages: few calls, in the background, and none that can fail a run."""

import threading
import uuid
from typing import Any

import pytest

from soapworks.flows.engine import progress as progress_artifacts
from soapworks.flows.engine.progress import ArtifactListener, showing_progress_artifacts
from soapworks.tasks.events import (
    StageAdvanced,
    StageFinished,
    StageStarted,
    emit,
    listening,
    stage,
)
from tests.flows.test_score_flow import post


class Server:
    """A server's client that writes down what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.created: list[str] = []
        self.updates: list[tuple[float, str]] = []
        self.open = threading.Event()
        self.open.set()
        self.fault: Exception | None = None
        monkeypatch.setattr(progress_artifacts, "create_progress_artifact", self.create)

    def create(self, progress: float, *, description: str) -> uuid.UUID:
        assert self.open.wait(30)
        if self.fault:
            raise self.fault
        self.created.append(description)
        return uuid.uuid4()

    def update_artifact(self, artifact_id: uuid.UUID, artifact: Any) -> None:
        assert self.open.wait(30)
        self.updates.append((artifact.data, artifact.description))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def listener_of(server: Any, seconds: float) -> ArtifactListener:
    return ArtifactListener(server, seconds)


def test_start_way_and_end(server: Server) -> None:
    listener = listener_of(server, 0)
    with listening(listener), stage("extract", "my.pt · real", 8, "images") as advance:
        advance(2)
        listener.drain()
    listener.close()
    assert server.created == ["8 images · extract `my.pt · real`"]
    assert server.updates[0] == (25.0, "2 of 8 images · extract `my.pt · real`")
    assert server.updates[-1][0] == 100.0
    assert server.updates[-1][1].startswith("8 images in ")


def test_a_thousand_steps_are_few_calls(server: Server) -> None:
    listener = listener_of(server, 60)
    with listening(listener), stage("extract", "my.pt", 1000, "images") as advance:
        for _ in range(1000):
            advance(1)
    listener.close()
    assert (len(server.created), len(server.updates)) == (1, 1)


def test_a_slow_server_is_not_waited_for(server: Server) -> None:
    listener = listener_of(server, 0)
    server.open.clear()
    with listening(listener), stage("extract", "my.pt", 1000, "images") as advance:
        for _ in range(1000):
            advance(1)
    # The stage is over before the server has answered once.
    assert server.created == []
    server.open.set()
    listener.close()
    assert len(server.updates) == 2  # one that was under way, and the end


def test_a_server_that_fails_is_asked_no_more(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listener_of(server, 0)
    server.fault = RuntimeError("the server is tired")
    with listening(listener):
        for number in range(3):
            with stage("pca", f"layer {number}", 2, "blocks") as advance:
                advance(1)
                listener.drain()
    listener.close()
    assert (server.created, server.updates) == ([], [])
    assert caplog.text.count("the server is tired") == 1


def test_what_was_there_already_is_no_progress(server: Server) -> None:
    listener = listener_of(server, 0)
    listener(StageFinished("extract", "my.pt", True, 0.0))
    listener(StageAdvanced("extract", "my.pt", 3))
    listener.close()
    assert (server.created, server.updates) == ([], [])


def test_names_are_no_markup(server: Server) -> None:
    listener = listener_of(server, 0)
    listener(StageStarted("extract", "a`b\n# c", 1))
    listener.close()
    assert server.created == ["1 images · extract `a'b # c`"]


@pytest.mark.server
def test_it_belongs_to_the_task_that_runs_the_stage(prefect_server: str) -> None:
    from prefect import flow, runtime, task

    seen: list[str] = []

    @task
    def work() -> None:
        seen.append(str(runtime.task_run.id))
        with stage("extract", "my.pt", 4, "images") as advance:
            advance(4)

    @flow
    def run() -> None:
        seen.append(str(runtime.flow_run.id))
        with showing_progress_artifacts(seconds=0):
            work()
            emit(StageStarted("score", "my.pt", 3, "layers"))

    run()
    flow_run, task_run = seen
    wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
    found = post(prefect_server, "artifacts/filter", wanted)
    told = {(a["task_run_id"], a["data"], a["description"].split(" · ")[1]) for a in found}
    assert told == {(task_run, 100.0, "extract `my.pt`"), (None, 0.0, "score `my.pt`")}
