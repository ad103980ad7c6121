"""A Prefect server of our own, for the length of one command.

Every server has a database to itself in a scratch folder, so commands at the same time never meet
in one SQLite file, and a home on a network file system does no harm. Making the tables takes most
of a first start; a copy of the empty, migrated database is kept in the home for all later ones.
"""

import http.client
import os
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
        Folder that keeps the migrated database between commands; made when missing, and done
        without when it cannot be written to.

    Attributes
    ----------
    url
        The API's URL. Only good after :meth:`wait_until_healthy`.
    """

    def __init__(self, home: Path) -> None:
        self._template = home / f"prefect-{version('prefect')}.db"
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="soapworks-prefect-"))
        except OSError as error:
            raise EngineError(f"No folder for Prefect's database can be made: {error}.") from error
        try:
            self._migrated = _copy_database(self._template, self._scratch / _DATABASE)
            self._process, port = self._spawn()
        except OSError as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise EngineError(f"No Prefect server can be started: {error}.") from error
        self._port = port
        self.url = f"http://127.0.0.1:{port}/api"

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        with closing(socket.socket()) as bound, (self._scratch / _LOG).open("wb") as log:
            # Bound here, listened to by the child: the port is known and cannot be taken away.
            bound.bind(("127.0.0.1", 0))
            arguments = str(bound.fileno()), str(os.getpid()), str(self._scratch)
            process = subprocess.Popen(
                # -P: this folder's modules must not stand in for those the server imports.
                [sys.executable, "-P", str(_PROGRAM), *arguments],
                stdin=subprocess.PIPE,  # its end tells the child that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._scratch,
                env=own_server_environment(self._scratch, migrated=self._migrated),
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
            When the server ended or does not answer in time, with the last lines of its output.
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
        """Take the server down and remove its scratch folder."""
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
        with suppress(OSError):
            lines = (self._scratch / _LOG).read_text(errors="replace").strip().splitlines()
            what += ", and last said:\n" + "\n".join(lines[-10:]) if lines else " without a word"
        return (
            f"The Prefect server that soapworks starts for this command {what}\n"
            "Check that Prefect's dependencies are the locked ones, or set PREFECT_API_URL to a "
            "server that runs."
        )


def _copy_database(template: Path, destination: Path) -> bool:
    """Copy the migrated database into place; False when there is no sound one."""
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
    """Keep a copy of a fresh database; only saves time, so a failure is none."""
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=template.parent) as aside:
            copy = Path(aside) / _DATABASE
            with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(copy)) as kept:
                live.backup(kept)
            copy.replace(template)
