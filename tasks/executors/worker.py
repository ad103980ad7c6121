"""What holds inside of a worker of a Dask cluster: one forward pass at a time, bounded memory.

A worker is a process with some threads. Its threads share one network, which one of them at a time
computes with, using as many of torch's threads as the worker has; statistics are one thread each.
"""

import ctypes
import platform
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import psutil
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""

KEPT_BYTES = 1 << 30
"""Freed memory that glibc keeps for the next layer's activations, at most."""

_network = threading.Lock()
_counting = threading.Lock()


class Room(Hashable, Protocol):
    """How much memory a statistic takes; picklable and hashable."""

    def threads(self, memory: int, workers: int, cure: str) -> int:
        """Return how many may be computed at once, at least one.

        Raises
        ------
        ResourceError
            Where not even one fits into ``memory``; ``cure`` says what to do.
        """


@dataclass(frozen=True)
class Statistic(Generic[T, R]):
    """A statistic as a worker computes it: within its memory, with BLAS on one thread."""

    function: Callable[[T], R]
    room: Room

    def __call__(self, argument: T) -> R:
        """Return the statistic of some piece of the data."""
        limit_blas()
        with _slots(self.room):
            return self.function(argument)


def n_threads() -> int:
    """Return the number of threads of this worker."""
    from distributed import get_worker

    return get_worker().state.nthreads


def threads_in(room: Room) -> int:
    """Return how many threads of this worker have room for a statistic.

    Raises
    ------
    ResourceError
        Where the worker has no room for one.
    """
    from distributed import get_worker

    worker = get_worker()
    limit = worker.memory_manager.memory_limit or psutil.virtual_memory().total
    cure = f"start the Dask workers ({worker.address}) with a larger --memory-limit"
    return room.threads(limit, worker.state.nthreads, cure)


@contextmanager
def network_alone() -> Iterator[None]:
    """Let one thread of the worker compute forward passes, with all of the worker's threads."""
    import torch

    with _network:
        keep_freed_memory()
        torch.set_num_threads(n_threads())
        yield


@lru_cache(maxsize=1)
def limit_blas() -> Any:
    """Hold BLAS at one thread as long as this worker lives.

    For good, because threads that set and restore the limit would undo each other's.
    """
    return threadpool_limits(1, user_api="blas")


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Have glibc keep what a pass frees, as it does in a process that nobody set up otherwise.

    Dask starts workers with a limit of 64 KiB (MALLOC_TRIM_THRESHOLD_), so every activation is
    given back to the system and asked of it anew: page faults that take a fifth of a forward pass
    on a CPU. What is kept is no more than the pass has had at once.

    Returns
    -------
    bool
        Whether there is a glibc that does so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def _slots(room: Room) -> threading.Semaphore:
    with _counting:  # counted once, before statistics of this kind take memory themselves
        return _slots_of(room)


@lru_cache(maxsize=8)
def _slots_of(room: Room) -> threading.Semaphore:
    return threading.Semaphore(threads_in(room))
