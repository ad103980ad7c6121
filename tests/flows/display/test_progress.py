"""Progress as a person reads it."""

import io
import sys

import pytest
from rich.console import Console

from soapworks.flows.display.progress import BarListener, showing_progress
from soapworks.tasks.events import Notice, StageAdvanced, StageFinished, StageStarted, Waiting, emit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_a_stage() -> None:
    emit(StageStarted("extract", "vit · real", 1000))
    for _ in range(10):
        emit(StageAdvanced("extract", "vit · real", 100))
    emit(StageFinished("extract", "vit · real", False, 4.0))


@pytest.fixture(autouse=True)
def a_capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_not_a_terminal_one_line_at_start_and_end() -> None:
    stream = io.StringIO()
    with showing_progress(stream=stream):
        run_a_stage()
    assert stream.getvalue().splitlines() == [
        "extract vit · real: 1,000 images",
        "extract vit · real: done in 4.0 s (250.0 images/s)",
    ]


def test_long_lines_and_brackets_are_kept() -> None:
    stream = io.StringIO()
    subject = "folder/[bold]name[/bold]/" + "x" * 200
    with showing_progress(stream=stream):
        emit(StageStarted("index", subject, 3, "files"))
    assert stream.getvalue() == f"index {subject}: 3 files\n"


def test_cached_stage_says_so() -> None:
    stream = io.StringIO()
    with showing_progress(stream=stream):
        emit(StageFinished("pca", "vit · norm", True, 0.0))
    assert stream.getvalue() == "pca vit · norm: already in the store\n"


@pytest.mark.parametrize("kind", [Waiting, Notice])
@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_messages_are_shown(kind: type[Waiting | Notice], stream: io.StringIO) -> None:
    with showing_progress(stream=stream):
        emit(kind("pca [x] is being made by host a"))
    assert "pca [x] is being made by host a" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_shows_nothing(stream: io.StringIO) -> None:
    with showing_progress(quiet=True, stream=stream):
        run_a_stage()
    assert stream.getvalue() == ""


def test_nothing_reaches_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_progress():
        run_a_stage()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1,000 images" in captured.err


def test_results_reach_stdout_while_bars_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    with showing_progress(stream=stream):
        sys.stdout.write("result\n")
    assert capsys.readouterr().out == "result\n"
    assert "result" not in stream.getvalue()


def test_terminal_keeps_a_line_for_an_ended_stage() -> None:
    stream = Terminal()
    with showing_progress(stream=stream):
        run_a_stage()
    assert "extract vit · real: done in 4.0 s (250.0 images/s)" in stream.getvalue()


def test_bar_counts_units_and_goes_with_its_stage() -> None:
    console = Console(file=Terminal(), width=120)
    with BarListener(console) as bars:
        bars(StageStarted("extract", "vit", 1000))
        bars(StageAdvanced("extract", "vit", 600))
        (bar,) = bars._bars.tasks
        assert (bar.completed, bar.total) == (600, 1000)
        bars(StageFinished("extract", "vit", False, 1.0))
        assert bars._bars.tasks == []


def test_bar_of_a_stage_that_starts_again_starts_again() -> None:
    with BarListener(Console(file=Terminal())) as bars:
        bars(StageStarted("extract", "vit", 1000))
        bars(StageAdvanced("extract", "vit", 600))
        bars(StageStarted("extract", "vit", 1000))
        (bar,) = bars._bars.tasks
        assert bar.completed == 0


def test_bar_shows_rate_and_remaining_time() -> None:
    console = Console(file=io.StringIO(), width=120)
    bars = BarListener(console)
    clock = [0.0]
    bars._bars.get_time = lambda: clock[0]
    bars(StageStarted("extract", "vit", 1000))
    for clock[0] in (1.0, 2.0, 3.0):
        bars(StageAdvanced("extract", "vit", 100))
    console.print(bars._bars)
    line = console.file.getvalue()
    assert "extract vit" in line
    assert "300/1000" in line
    assert "100.0 images/s" in line
    assert "0:00:07" in line


def test_advance_of_an_unknown_stage_is_ignored() -> None:
    stream = Terminal()
    with showing_progress(stream=stream):
        emit(StageAdvanced("index", "photos", 3))
    assert "photos" not in stream.getvalue()
