"""Calls inside a worker of a Dask cluster: one forward pass at a time, bounded memory.

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


class MemoryNeed(Hashable, Protocol):
    """The memory that a call takes; picklable and hashable."""

    def threads(self, memory: int, workers: int, cure: str) -> int:
        """Return the number of calls at once that fit, at least 1.

        Raises
        ------
        ResourceError
            Where not even one fits into ``memory``; ``cure`` goes into the message.
        """


@dataclass(frozen=True)
class BoundedCall(Generic[T, R]):
    """A call within a worker's memory, with BLAS on one thread."""

    function: Callable[[T], R]
    need: MemoryNeed

    def __call__(self, argument: T) -> R:
        """Return function(argument)."""
        limit_blas()
        with _slots(self.need):
            return self.function(argument)


def n_threads() -> int:
    """Return the number of threads of this worker."""
    from distributed import get_worker

    return get_worker().state.nthreads


def threads_in(need: MemoryNeed) -> int:
    """Return the number of this worker's threads that memory suffices for.

    Raises
    ------
    ResourceError
        Where it does not suffice for one.
    """
    from distributed import get_worker

    worker = get_worker()
    limit = worker.memory_manager.memory_limit or psutil.virtual_memory().total
    cure = f"start the Dask workers ({worker.address}) with a larger --memory-limit"
    return need.threads(limit, worker.state.nthreads, cure)


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
    """Have glibc keep freed memory; return whether it does.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_ at 64 KiB, so every activation goes back to
    the system: page faults that take a fifth of a forward pass on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def _slots(need: MemoryNeed) -> threading.Semaphore:
    with _counting:  # counted once, before statistics of this kind take memory themselves
        return _slots_of(need)


@lru_cache(maxsize=8)
def _slots_of(need: MemoryNeed) -> threading.Semaphore:
    return threading.Semaphore(threads_in(need))
