"""Calls on a Dask cluster: few in flight at once, and errors translated."""

import asyncio
import concurrent.futures
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from dask.delayed import delayed

from soapworks.errors import EngineError
from soapworks.tasks.executors.threads import reduce_tree
from soapworks.tasks.executors.worker import BoundedCall, MemoryNeed

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")
R = TypeVar("R")

GPU = "GPU"
"""Resource that workers with a GPU declare: ``dask worker ... --resources GPU=1``."""

IN_FLIGHT = 2
"""Calls per thread of the workers that are handed out at once: one runs, one waits."""

POLL_SECONDS = 2.0
"""Seconds between two looks at a silent cluster."""

PATIENCE = 60.0
"""Seconds without any worker after which a run gives up; a supervisor may restart them."""


_CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster that this process is connected to."""

    address: str
    """The scheduler's address."""
    client: "Client"

    def workers(self, resources: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """Return the scheduler's facts of all workers with some resources, by address."""
        found = self.client.scheduler_info(n_workers=-1)["workers"]
        return {
            address: worker
            for address, worker in found.items()
            if all(worker["resources"].get(name, 0) >= n for name, n in resources.items())
        }

    def resources(self, device: str) -> dict[str, float]:
        """Return what a forward pass takes of a worker: its GPU, where workers declare one."""
        wants_gpu = device == "auto" or device.startswith("cuda")
        return {GPU: 1} if wants_gpu and self.workers({GPU: 1}) else {}

    def as_done(
        self, function: Callable[[T], R], arguments: Iterable[T], resources: Mapping[str, float]
    ) -> Iterator[R]:
        """Yield function(argument) as each is done, in any order.

        Raises
        ------
        EngineError
            Where the cluster fails.
        """
        todo = iter(arguments)
        pending: set[Future] = set()
        try:
            while True:
                room = self._room(resources, len(pending))
                pending |= {self._submit(function, a, resources) for a in islice(todo, room)}
                if not pending:
                    return
                for future in self._finished(pending, resources):
                    pending.discard(future)
                    yield self._result(future)
        finally:
            self._drop(pending)

    def within(self, need: MemoryNeed) -> "StatisticsOnCluster":
        """Return the cluster as a place for statistics that take some memory each."""
        return StatisticsOnCluster(self, need)

    def _room(self, resources: Mapping[str, float], n_under_way: int) -> int:
        """Return how many further calls may be handed out."""
        with self._translated():
            n_threads = sum(worker["nthreads"] for worker in self.workers(resources).values())
        # Where a worker has died more may be under way than there is room for.
        return max(0, max(1, IN_FLIGHT * n_threads) - n_under_way)

    def _submit(
        self, function: Callable[[T], R], argument: T, resources: Mapping[str, float]
    ) -> "Future":
        with self._translated():
            return self.client.submit(
                function, argument, key=_key(function), resources=dict(resources)
            )

    def _finished(
        self, futures: Iterable["Future"], resources: Mapping[str, float]
    ) -> "set[Future]":
        """Return the finished ones, at least one.

        Raises
        ------
        EngineError
            Where no worker is left.
        """
        from distributed import wait

        alive = time.monotonic()
        while True:
            with self._translated(), suppress(TimeoutError), self.client.as_current():
                return wait(list(futures), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done
            with self._translated(), suppress(TimeoutError, OSError):
                if self.client.status == "running" and self.workers(resources):
                    alive = time.monotonic()
            if time.monotonic() - alive > PATIENCE:
                raise EngineError(
                    f"the Dask cluster at {self.address} has had no worker that can do the work "
                    f"for {PATIENCE:.0f} seconds: what is finished is kept; start workers and run "
                    "the same command again."
                )

    def _result(self, future: "Future") -> Any:
        with self._translated():
            return future.result()

    def _drop(self, futures: Iterable["Future"]) -> None:
        """Cancel calls; a running one runs to its end."""
        with suppress(Exception):
            self.client.cancel(list(futures))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the cluster's own exceptions."""
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            yield
        except KilledWorker as error:
            raise EngineError(
                f"workers of the Dask cluster at {self.address} died {error.allowed_failures + 1} "
                "times over the same piece of work (killed, or out of memory): what is finished "
                "is kept; see the workers' logs, give them more memory or a smaller --batch-size, "
                "and run the same command again."
            ) from error
        except (*_CANCELLED, CommClosedError) as error:
            raise EngineError(
                f"the connection to the Dask scheduler at {self.address} was lost: what is "
                "finished is kept; run the same command again once the scheduler is back."
            ) from error


@dataclass(frozen=True)
class StatisticsOnCluster:
    """Statistics computed on a cluster; implements ``threads.Compute``."""

    cluster: Cluster
    need: MemoryNeed
    """Memory that one call takes."""

    def each(self, function: Callable[[T], R], arguments: Sequence[T]) -> Iterator[R]:
        """Yield function(argument) in order; results wait on the workers."""
        cluster, call = self.cluster, BoundedCall(function, self.need)
        todo = iter(arguments)
        window: deque[Future] = deque()
        try:
            while True:
                room = cluster._room({}, len(window))
                window.extend(cluster._submit(call, a, {}) for a in islice(todo, room))
                if not window:
                    return
                cluster._finished([window[0]], {})
                yield cluster._result(window.popleft())
        finally:
            cluster._drop(window)

    def tree(
        self, function: Callable[[T], R], arguments: Sequence[T], merge: Callable[[R, R], R]
    ) -> R:
        """Return function(argument) of all arguments, merged on the workers."""
        call = delayed(BoundedCall(function, self.need), pure=False)
        parts = [call(argument, dask_key_name=_key(function)) for argument in arguments]
        future = self.cluster.client.compute(reduce_tree(parts, merge))
        try:
            self.cluster._finished([future], {})
            return self.cluster._result(future)
        finally:
            self.cluster._drop([future])


def _key(function: Callable[..., Any]) -> str:
    """Return a new name for a call, as Dask's logs and dashboard show it."""
    called = function.function if isinstance(function, BoundedCall) else function
    return f"{type(called).__name__}-{uuid.uuid4().hex}"
