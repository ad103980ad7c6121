"""Progress for people: a listener that draws bars on a terminal, another that writes lines.

Both write to stderr; stdout is for results. Nothing here is called by a stage.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from soapworks.names import one_line
from soapworks.tasks.events import (
    Event,
    Notice,
    StageAdvanced,
    StageFinished,
    StageStarted,
    Waiting,
    listening,
)


@contextmanager
def showing_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[None]:
    """Show the progress of everything inside the block.

    Parameters
    ----------
    quiet
        Show nothing.
    stream
        Where to write; stderr by default. Bars on a terminal, else one line at the start and one
        at the end of a stage.
    """
    console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
    if quiet:
        yield
    elif console.is_terminal and not console.is_dumb_terminal:
        with BarListener(console) as bars, listening(bars):
            yield
    else:
        with listening(LineListener(console)):
            yield


class LineListener:
    """Writes a line when a stage starts and one when it ends.

    Parameters
    ----------
    console
        Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[tuple[str, str], StageStarted] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        match event:
            case StageStarted():
                self._running[event.stage, event.subject] = event
                self._say(f"{_name(event)}: {_amount(event.total, event.unit, ',')}")
            case StageFinished():
                self._say(ending(event, self._running.pop((event.stage, event.subject), None)))
            case Waiting() | Notice():
                self._say(event.message)

    def _say(self, line: str) -> None:
        self._console.print(Text(one_line(line)))


class BarListener:
    """Draws a bar for each running stage, and leaves a line for each that has ended.

    Events may come from several threads. A context manager: the bars live inside the block.

    Parameters
    ----------
    console
        The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # results must reach stdout, not the terminal's bars
        )
        self._running: dict[tuple[str, str], tuple[StageStarted, TaskID]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "BarListener":
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; bars of stages that have not ended disappear."""
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        match event:
            case StageStarted():
                self._remove(event)  # a stage may start again, after a lost lease
                task = self._bars.add_task(
                    one_line(_name(event)), total=event.total, unit=event.unit
                )
                with self._lock:
                    self._running[event.stage, event.subject] = event, task
            case StageAdvanced():
                with self._lock:
                    running = self._running.get((event.stage, event.subject))
                if running:
                    self._bars.advance(running[1], event.n)
            case StageFinished():
                self._say(ending(event, self._remove(event)))
            case Waiting() | Notice():
                self._say(event.message)

    def _remove(self, event: StageStarted | StageFinished) -> StageStarted | None:
        with self._lock:
            running = self._running.pop((event.stage, event.subject), None)
        if running is None:
            return None
        self._bars.remove_task(running[1])
        return running[0]

    def _say(self, line: str) -> None:
        self._bars.console.print(Text(one_line(line)))


class _RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """Draw the column of one bar."""
        speed = task.finished_speed or task.speed
        return Text(f"{_amount(speed, task.fields['unit'], ',.1f')}/s" if speed else "", "cyan")


def ending(event: StageFinished, started: StageStarted | None) -> str:
    """Tell in one line how a stage ended.

    Parameters
    ----------
    event
        The end.
    started
        Its beginning, where there was one: gives the rate.
    """
    if event.cached:
        return f"{_name(event)}: already in the store"
    line = f"{_name(event)}: done in {event.seconds:.1f} s"
    if started and started.total > 1 and event.seconds > 0:
        line += f" ({_amount(started.total / event.seconds, started.unit, ',.1f')}/s)"
    return line


def _amount(n: float, unit: str, spec: str) -> str:
    return decimal(int(n)) if unit == "bytes" else f"{n:{spec}} {unit}"


def _name(event: StageStarted | StageFinished) -> str:
    return f"{event.stage} {event.subject}"
