"""Matrix products in the dtype that they are written in, whatever a program has set."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_before: str | bool = False


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Switch autocast, TensorFloat-32 and gradients off, and restore them afterwards.

    TensorFloat-32 is a setting of the process: the first of several threads switches it off, the
    last one restores it.

    Parameters
    ----------
    device_type
        "cpu", "cuda", as in ``torch.device.type``.
    """
    global _inside, _before
    matmul = torch.backends.cuda.matmul
    # torch 2.9 replaced the second setting by the first and refuses a mixture of both.
    newer = hasattr(matmul, "fp32_precision")
    name, full = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
    with torch.autocast(device_type, enabled=False), torch.no_grad():
        with _lock:
            if not _inside:
                _before = getattr(matmul, name)
                setattr(matmul, name, full)
            _inside += 1
        try:
            yield
        finally:
            with _lock:
                _inside -= 1
                if not _inside:
                    setattr(matmul, name, _before)
