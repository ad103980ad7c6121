"""What a person sees of the log."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from soapworks.flows.engine.log import short_log_lines


@pytest.fixture(autouse=True)
def logs_outside_runs_are_no_mistake_here() -> Iterator[None]:
    from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield


@pytest.mark.parametrize(
    ("quiet", "verbose", "shown"),
    [
        (False, False, ["warning: w", "error: e"]),
        (True, False, ["error: e"]),
        (False, True, ["info: i", "warning: w", "error: e"]),
    ],
)
def test_levels(
    capsys: pytest.CaptureFixture[str], quiet: bool, verbose: bool, shown: list[str]
) -> None:
    logger = logging.getLogger("prefect.example")
    logger.setLevel("INFO")
    with short_log_lines(quiet=quiet, verbose=verbose):
        logger.info("i")
        logger.warning("w")
        logger.error("e")
    logger.error("after the block")
    assert capsys.readouterr().err.splitlines() == shown


def test_secrets_in_addresses_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with short_log_lines(quiet=False, verbose=True):
        try:
            raise ValueError("http://user:s3cret@host/api?token=s3cret")
        except ValueError:
            logging.getLogger("prefect.flow_runs").exception("at http://s3cret@host/api")
    shown = capsys.readouterr().err
    assert "host/api" in shown
    assert "s3cret" not in shown


def test_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with short_log_lines(quiet=False, verbose=False):
        logging.getLogger("prefect.task_runs").warning(
            "slow", extra={"task_run_name": "pca · norm", "flow_run_name": "score"}
        )
    assert capsys.readouterr().err == "warning: [pca · norm] slow\n"


def test_what_the_exception_says_is_not_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("prefect.flow_runs")
    with short_log_lines(quiet=False, verbose=False):
        try:
            raise ValueError("bad")
        except ValueError as error:
            logger.exception("Encountered exception during execution: %r", error)
        logger.error("Finished in state Failed('bad')")
        logger.error("An error was encountered while running hook 'x'")
    assert capsys.readouterr().err == "error: An error was encountered while running hook 'x'\n"


def test_verbose_shows_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    with short_log_lines(quiet=False, verbose=True):
        try:
            raise ValueError("bad")
        except ValueError:
            logging.getLogger("prefect.flow_runs").exception("Encountered exception")
    assert capsys.readouterr().err.startswith("error: Encountered exception\nTraceback")


def test_chatty_libraries_are_held_at_warning_and_put_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("httpx")
    before = logger.level
    with short_log_lines(quiet=False, verbose=True):
        logger.info("HTTP Request: POST")
    assert capsys.readouterr().err == ""
    assert logger.level == before


def test_distributed_stays_quiet_though_imported_later() -> None:
    code = (
        "from soapworks.flows.engine.settings import client_environment\n"
        "with client_environment():\n"
        "    import distributed, logging\n"
        "    assert logging.getLogger('distributed').level == logging.WARNING\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0
