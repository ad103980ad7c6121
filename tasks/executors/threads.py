"""Dask, as the stages use it: a tree of calls on threads, with BLAS kept to one thread.

BLAS threads times Dask threads is several times slower than either alone, so BLAS is held at one
thread while Dask runs. The same calls are done by a cluster's workers in ``cluster.py``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import dask.config
from dask.base import compute as dask_compute
from dask.delayed import delayed
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


class Compute(Protocol):
    """A place that computes calls, with the same results in the same order everywhere."""

    def each(self, function: Callable[[T], R], arguments: Sequence[T]) -> Iterator[R]:
        """Yield function(argument) in order, few of them at once."""

    def tree(
        self, function: Callable[[T], R], arguments: Sequence[T], merge: Callable[[R, R], R]
    ) -> R:
        """Return function(argument) of all arguments, merged by :func:`reduce_tree`."""


@dataclass(frozen=True)
class Threads:
    """Threads of this process."""

    n: int
    """How many."""

    def each(self, function: Callable[[T], R], arguments: Sequence[T]) -> Iterator[R]:
        """Yield function(argument) in order."""
        return compute_each(function, arguments, workers=self.n)

    def tree(
        self, function: Callable[[T], R], arguments: Sequence[T], merge: Callable[[R, R], R]
    ) -> R:
        """Return function(argument) of all arguments, merged."""
        calls = [delayed(function, pure=False)(argument) for argument in arguments]
        return compute(reduce_tree(calls, merge), workers=self.n)


def compute(value: Any, *, workers: int) -> Any:
    """Return the result of a delayed value, computed on threads."""
    with threadpool_limits(1), dask.config.set(scheduler="threads", num_workers=workers):
        (result,) = dask_compute(value)
    return result


def compute_each(
    function: Callable[[T], R], arguments: Sequence[T], *, workers: int, at_once: int = 8
) -> Iterator[R]:
    """Yield function(argument) in order, computing some at once on threads.

    Parameters
    ----------
    function
        Called once per argument.
    arguments
        Its arguments.
    workers
        Number of threads.
    at_once
        Calls per thread between two yields; bounds what is in flight.
    """
    step = workers * at_once
    for start in range(0, len(arguments), step):
        calls = [delayed(function, pure=False)(a) for a in arguments[start : start + step]]
        yield from compute(calls, workers=workers)


def reduce_tree(parts: Iterable[Any], merge: Callable[[T, T], T]) -> Any:
    """Return the delayed pairwise merge of delayed parts, always in the same order.

    Merging neighbours level by level keeps few partial results alive, and the order does not
    depend on which part is done first, so the result is the same to the bit every time.
    """
    level = list(parts)
    merged = delayed(merge, pure=False)
    while len(level) > 1:
        pairs = [merged(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]
