"""Things that go wrong inside a process: memory that runs out, threads that stumble."""

import importlib
import threading
from collections.abc import Callable
from typing import Any

from tests.faults.child import Job


def out_of_memory(job: Job, *, error: str, limits: dict[int, int]) -> None:
    """Let forward passes run out of memory: from the n-th on, those of more images than a limit."""
    import torch

    from soapworks.backbones import Backbone

    raised = {"torch": torch.OutOfMemoryError, "numpy": MemoryError}[error]
    original, calls = Backbone.features, 0

    def features(self: Any, images: Any, layers: Any) -> Any:
        nonlocal calls
        calls += 1
        if any(calls >= at and len(images) > limit for at, limit in limits.items()):
            job.struck()
            raise raised(f"{len(images)} images do not fit")
        return original(self, images, layers)

    Backbone.features = features  # type: ignore[method-assign]


def stumble(job: Job, *, place: str, at: int) -> None:
    """Let the n-th call of a function fail, in whichever thread it is made."""
    module, _, rest = place.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = rest.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, _failing(job, getattr(owner, name), at))


def _failing(job: Job, original: Callable[..., Any], at: int) -> Callable[..., Any]:
    lock, calls = threading.Lock(), 0

    def function(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            now = calls == at
        if now:
            job.struck()
            raise ArithmeticError("a thread stumbled")
        return original(*arguments, **named)

    return function
