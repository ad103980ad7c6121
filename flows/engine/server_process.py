"""The program of our own Prefect server: a child process that never outlives its parent.

:mod:`soapworks.flows.engine.server` runs it as a script that imports nothing of soapworks. Its
arguments are the number of an inherited, bound socket, the parent's process id and the scratch
folder that holds the database. Standard input is a pipe whose other end only the parent holds.
"""

import ctypes
import gc
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the parent stops this process or ends."""
    descriptor, parent, scratch = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])

    def leave(*_: object) -> None:
        # The database is thrown away, so clients lose nothing by connections cut.
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, leave)
    if sys.platform == "linux":
        # Works even where a forked grandchild keeps the other end of the pipe open.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        leave()
    threading.Thread(target=_wait_for_end_of_parent, args=(leave,), daemon=True).start()
    _serve(socket.socket(fileno=descriptor))


def _wait_for_end_of_parent(leave: Callable[[], None]) -> None:
    # The kernel closes the parent's end however the parent dies.
    while os.read(sys.stdin.fileno(), 1):
        pass
    leave()


def _serve(bound: socket.socket) -> None:
    gc.disable()  # a seventh of the start-up, which is nearly all imports
    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = create_app()
    # No page of another site may reach this server by a name that it makes lead here.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[bound.getsockname()[0]])
    gc.enable()
    gc.freeze()

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # ours stay in place

    Server(uvicorn.Config(app, log_level="warning", lifespan="on")).run(sockets=[bound])


if __name__ == "__main__":
    main()
