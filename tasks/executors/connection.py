"""The connection to a Dask cluster: one per process, checked when it is opened.

Scheduler and workers run the same software as this process, and see the same store, images and
checkpoints.
"""

import asyncio
import logging
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from soapworks import __version__
from soapworks.errors import EngineError, InputError
from soapworks.tasks.settings import check_dask_address

if TYPE_CHECKING:
    from soapworks.tasks.executors.cluster import Cluster

CONNECT_SECONDS = 8.0
"""Longest wait for a scheduler's answer."""

PROBE_SECONDS = 2.0
"""Longest search for the reason why none came."""

WORKERS_SECONDS = 10.0
"""Longest wait for a first worker."""

PACKAGES = ("dask", "distributed", "numpy", "torch", "timm", "zarr", "s3fs")
"""Packages whose versions must agree, as those of Python and soapworks must."""

SAME = (
    "install the same versions on the scheduler and all workers (requirements.lock has them) and "
    "run again"
)

_open: "dict[str, tuple[Cluster, int]]" = {}
_opening = threading.Lock()


@contextmanager
def connected(address: str | None) -> "Iterator[Cluster | None]":
    """Connect to a cluster inside the block; yield None without an address.

    Nested blocks share a connection.

    Raises
    ------
    EngineError
        If nothing answers, there are no workers, or they run other software.
    InputError
        If the address is invalid.
    """
    if address is None:
        yield None
        return
    with _opening:
        cluster, n_users = _open.get(address) or (_connect(address), 0)
        _open[address] = cluster, n_users + 1
    try:
        yield cluster
    finally:
        with _opening:
            _, n_users = _open.pop(address)
            if n_users > 1:
                _open[address] = cluster, n_users - 1
            else:
                cluster.client.close()


def _connect(address: str) -> "Cluster":
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    from soapworks.tasks.executors.cluster import Cluster

    # Its log is about itself, not about the run, and Prefect would show all of it.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        check_dask_address(address)
    except ValueError as error:
        raise InputError(str(error)) from error
    _require_scheduler(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # _check_versions reports it
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except OSError as error:
            raise _unreachable(address) from error
    try:
        try:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as error:
            raise EngineError(
                f"the Dask scheduler at {address} has no workers: start some with `dask worker "
                f"{address} --nworkers 1 --nthreads 1`, or leave --dask out"
            ) from error
        _check_versions(client)
    except BaseException:
        client.close()
        raise
    return Cluster(address, client)


def _require_scheduler(address: str) -> None:
    """Refuse an address where no scheduler answers; other servers may keep a client waiting."""
    from distributed import Security, rpc

    async def identity() -> dict[str, Any]:
        certificates = Security().get_connection_args("client")
        async with rpc(address, timeout=CONNECT_SECONDS, connection_args=certificates) as scheduler:
            return await scheduler.identity()

    async def answer() -> dict[str, Any]:
        return await asyncio.wait_for(identity(), CONNECT_SECONDS + 1)

    try:
        with ThreadPoolExecutor(1) as pool:  # the caller may be in an event loop itself
            found = pool.submit(asyncio.run, answer()).result()
    except (ValueError, TypeError) as error:
        hint = " (for tls:// set Dask's distributed.comm.tls.*)" if "TLS" in str(error) else ""
        raise InputError(
            f"{address!r} is not a usable Dask scheduler address: {error}{hint}; give one like "
            "tcp://host:8786"
        ) from error
    except OSError as error:  # timeouts included
        raise _unreachable(address) from error
    if found.get("type") != "Scheduler":
        raise EngineError(
            f"{address} is not a Dask scheduler but a {found.get('type', 'something else')}: give "
            "the address that `dask scheduler` prints"
        )


def _unreachable(address: str) -> EngineError:
    return EngineError(
        f"no Dask scheduler answers at {address} ({_why_unreachable(address)}): check the address "
        "and that `dask scheduler` runs there, or leave --dask out"
    )


def _why_unreachable(address: str) -> str:
    """Return the system's reason: Dask's is that of its last attempt, which may be cut short."""
    from distributed.comm.addressing import get_address_host_port

    try:
        socket.create_connection(get_address_host_port(address), PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "the answer is not a scheduler's"


def _check_versions(client: Any) -> None:
    """Refuse a cluster that runs other software, naming the first package that differs."""
    found = client.get_versions(packages=PACKAGES)
    ours = _versions(found["client"]["packages"])
    others = {"the Dask scheduler": _versions(found["scheduler"]["packages"])}
    for worker, answer in found["workers"].items():
        others[f"the Dask worker {worker}"] = _versions(answer["packages"])
    for who, theirs in others.items():
        _compare(who, ours, theirs)
    # Only now: the cluster must understand what is sent.
    answers = {"the Dask scheduler": client.run_on_scheduler(_question())}
    for worker, answer in client.run(_question(), on_error="return").items():
        answers[f"the Dask worker {worker}"] = answer
    for who, answer in answers.items():
        if not isinstance(answer, str) or answer.startswith("!"):
            raise EngineError(f"{who} cannot import soapworks ({str(answer).lstrip('!')}): {SAME}")
        _compare(who, {"soapworks": __version__}, {"soapworks": answer})


def _compare(who: str, ours: Mapping[str, str | None], theirs: Mapping[str, str | None]) -> None:
    for package, version in ours.items():
        if theirs.get(package) != version:
            raise EngineError(
                f"{who} has {package} {theirs.get(package) or '(none)'} where this process has "
                f"{version or '(none)'}: {SAME}"
            )


def _versions(packages: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the versions that must agree: Python's to the minor, others without their builds."""
    python = ".".join(str(packages["python"]).split(".")[:2])
    versions = {name: (packages[name] or "").partition("+")[0] or None for name in PACKAGES}
    return {"python": python, **versions}


def _question() -> Callable[[], str]:
    """Return a function that returns soapworks' version; it is sent as code, so runs anywhere."""

    def answer() -> str:
        try:
            from soapworks import __version__ as version
            from soapworks.tasks.executors import connection as cluster  # noqa: F401
        except ImportError as error:
            return f"!{error}"
        return version

    return answer
