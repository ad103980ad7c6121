"""A Prefect server for the duration of one command.

Every server has its own database in a scratch folder, so concurrent commands never share an SQLite
file, and a home on a network file system does no harm. Creating the tables takes most of a first
start; the home keeps a copy of the empty, migrated database for later ones.
"""

import http.client
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path

from soapworks.errors import EngineError
from soapworks.flows.engine.settings import own_server_environment

_PROGRAM = Path(__file__).with_name("server_process.py")
_DATABASE = "prefect.db"
_LOG = "server.log"


class OwnServer:
    """A Prefect server on 127.0.0.1, running from construction until :meth:`stop`.

    Parameters
    ----------
    home
        Folder that keeps the migrated database between commands; created when missing, not used
        when it cannot be written to.

    Attributes
    ----------
    url
        The API's URL, usable after :meth:`wait_until_healthy`.
    auth
        Text that requests authenticate with: random, and known to this process and the server's.
    """

    def __init__(self, home: Path) -> None:
        self._template = home / f"prefect-{version('prefect')}.db"
        self.auth = f"soapworks:{secrets.token_urlsafe(32)}"
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="soapworks-prefect-"))
        except OSError as error:
            raise EngineError(
                f"cannot create a folder for Prefect's database ({error}): set TMPDIR to a folder "
                "that you can write to"
            ) from error
        try:
            self._migrated = _copy_database(self._template, self._scratch / _DATABASE)
            self._process, port = self._spawn()
        except OSError as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise EngineError(
                f"cannot start a Prefect server ({error}): set PREFECT_API_URL to a running one"
            ) from error
        self._port = port
        self.url = f"http://127.0.0.1:{port}/api"

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        with closing(socket.socket()) as bound, (self._scratch / _LOG).open("wb") as log:
            # Bound here, used by the child: the port is known and stays ours.
            bound.bind(("127.0.0.1", 0))
            arguments = str(bound.fileno()), str(os.getpid()), str(self._scratch)
            process = subprocess.Popen(
                # -P: this folder's modules must not stand in for those the server imports.
                [sys.executable, "-P", str(_PROGRAM), *arguments],
                stdin=subprocess.PIPE,  # it closes when this process ends, however that ends
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._scratch,
                env=own_server_environment(self._scratch, migrated=self._migrated, auth=self.auth),
                pass_fds=[bound.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is for us
            )
            return process, bound.getsockname()[1]

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def wait_until_healthy(self, deadline: float) -> None:
        """Wait until the API answers.

        Parameters
        ----------
        deadline
            Longest wait, seconds.

        Raises
        ------
        EngineError
            If the server ended or does not answer in time, with the last lines of its log.
        """
        end = time.monotonic() + deadline
        while not self._answers():
            if self._process.poll() is not None:
                raise EngineError(self._failure(f"ended with status {self._process.returncode}"))
            if time.monotonic() > end:
                raise EngineError(self._failure(f"did not answer within {deadline:.0f} s"))
            time.sleep(0.02)
        if not self._migrated:
            _keep_database(self._scratch / _DATABASE, self._template)

    def stop(self) -> None:
        """Stop the server and remove its scratch folder."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _answers(self) -> bool:
        # Not urllib: it would ask the network's proxy.
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)) as connection:
            try:
                connection.request("GET", "/api/health")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    def _failure(self, what: str) -> str:
        lines: list[str] = []
        with suppress(OSError):
            lines = (self._scratch / _LOG).read_text(errors="replace").strip().splitlines()
        log = "its log ends with:\n" + "\n".join(lines[-10:]) if lines else "its log is empty"
        return (
            f"the Prefect server that soapworks starts for this command {what}: install the locked "
            "versions of Prefect's dependencies (requirements.lock), or set PREFECT_API_URL to a "
            f"running server; {log}"
        )


def _copy_database(template: Path, destination: Path) -> bool:
    """Copy the migrated database into place; False if it is missing or damaged."""
    try:
        shutil.copyfile(template, destination)
        with closing(sqlite3.connect(destination)) as database:
            sound = database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            if sound and database.execute("SELECT count(*) FROM alembic_version").fetchone()[0]:
                return True
    except (OSError, sqlite3.Error):
        pass
    destination.unlink(missing_ok=True)
    return False


def _keep_database(source: Path, template: Path) -> None:
    """Keep a copy of a fresh database; it only saves time, so failures are ignored."""
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=template.parent) as aside:
            copy = Path(aside) / _DATABASE
            with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(copy)) as kept:
                live.backup(kept)
            copy.replace(template)
