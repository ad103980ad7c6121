"""Identify the process that holds a lease, and detect that it is dead.

Only a process of this very boot and process namespace can be judged; of any other nothing is
known, and its lease is left to expire.
"""

import functools
import os
import socket
from pathlib import Path
from typing import Any


@functools.cache
def this_machine() -> dict[str, str]:
    """Return host name, boot and process namespace: where a process number means something."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def this_process() -> dict[str, str | int]:
    """Return the machine, number and start time of this process."""
    return {**this_machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(process: dict[str, Any]) -> bool:
    """Return whether a process of :func:`this_process` is certainly dead.

    A number that was given to another process since is told apart by its start time.
    """
    if any(process.get(name) != value for name, value in this_machine().items()):
        return False
    pid = process.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    started = _started(pid)
    return started == "gone" or (started != "" and process.get("started") not in ("", started))


def _started(pid: int) -> str:
    """Return the start time in clock ticks since boot, "gone" for a corpse, "" if unknown."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return ""
    fields = text.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZXx" else fields[19]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
