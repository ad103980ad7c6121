"""Log lines while Prefect runs a command: few, short, on stderr."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from soapworks.names import redact

_CHATTY = ("httpx", "httpcore", "distributed")
_RUNS = ("prefect.flow_runs", "prefect.task_runs")
_SENDERS = ("EventsWorker", "APILogWorker")
_ENDINGS = ("Encountered exception", "Task run failed", "Crash detected", "Finished in state")


class ShortFormatter(logging.Formatter):
    """Format as ``warning: [run's name] message``, without secrets in URLs."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        name = getattr(record, "task_run_name", None) or getattr(record, "flow_run_name", None)
        subject = f"[{name}] " if name and name != "unknown" else ""
        line = f"{record.levelname.lower()}: {subject}{record.getMessage()}"
        if self._tracebacks and record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class StderrHandler(logging.Handler):
    """Write to the current ``sys.stderr``, so that lines go above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, ValueError):  # a closed stderr must not end the run
            self.handleError(record)


@contextmanager
def short_log_lines(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Log warnings and errors in one line each inside the block.

    Parameters
    ----------
    quiet
        Errors only.
    verbose
        Prefect's own log and tracebacks too.
    """
    from prefect.logging.handlers import PrefectConsoleHandler

    handler = StderrHandler(
        logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    )
    handler.setFormatter(ShortFormatter(tracebacks=verbose))
    if not verbose:
        handler.addFilter(_is_new)
    root = logging.getLogger()
    replaced = [h for h in root.handlers if isinstance(h, PrefectConsoleHandler)]
    with ExitStack() as stack:
        for name in _CHATTY:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
        for old in replaced:
            root.removeHandler(old)
            stack.callback(root.addHandler, old)
        root.addHandler(handler)
        stack.callback(root.removeHandler, handler)
        yield


def _is_new(record: logging.LogRecord) -> bool:
    """Return whether neither the exception at the end nor the progress will report it."""
    ending = record.name.startswith(_RUNS) and record.getMessage().startswith(_ENDINGS)
    return not ending and record.name not in _SENDERS  # these count what is left to send
