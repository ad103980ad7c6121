"""Documents and files that somebody made up to do harm, and a process that reads them.

The process may use so much memory and no more; whatever it opens for writing outside of its
folder, runs or connects to is noted.
"""

import copy
import json
import os
import random
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Ask = Callable[[], object]

HEADROOM = 1 << 30
"""Bytes of address space that reading may take."""

NASTY: tuple[Any, ...] = (
    *(-1, 0, 1, 2**31, 2**40, 2**63, 2**64, 10**30, 1e308, float("nan"), True, None),
    *("", "x", "../../../outside", "/etc/passwd", "a\0b", "..", "x" * 100_000, "\ud800", "é"),
    *([], {}, [[]], {"": 0}, [2**40] * 3, [-1, -1], ["../x"], {"name": "os.system"}),
    *([0] * 1000, {"bytes": 2**62, "sha256": "0" * 64}, {"../x": {"bytes": 1, "sha256": "0" * 64}}),
)

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


def nested(depth: int, rng: random.Random) -> bytes:
    """Return JSON that is nested deeply."""
    if rng.random() < 0.5:
        return b"[" * depth + b"]" * depth
    return b'{"a":' * depth + b"1" + b"}" * depth


def changed_document(document: Any, rng: random.Random) -> Any:
    """Return a copy of a JSON document with some values, names or places changed."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = list(_places(document))
        if not places:
            return rng.choice(NASTY)
        holder, name = rng.choice(places)
        what = rng.random()
        if what < 0.7:
            holder[name] = copy.deepcopy(rng.choice(NASTY))  # it may be changed in its turn
        elif what < 0.85 or isinstance(holder, list):
            del holder[name]
        else:
            holder[str(rng.choice(NASTY))[:1000]] = holder.pop(name)
    return document


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    names: Iterable[Any] = ()
    if isinstance(value, dict):
        names = list(value)
    elif isinstance(value, list):
        names = range(len(value))
    for name in names:
        yield value, name
        yield from _places(value[name])


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that were cut, flipped, or of which a piece was put elsewhere."""
    changed = bytearray(data)
    how = rng.choice(["cut", "flip", "flip", "early", "move", "zero", "grow"])
    if how == "cut":
        return data[: rng.randrange(len(data) + 1)]
    if how in ("flip", "early"):  # most of what says how to read a file stands at its beginning
        end = min(len(data), 400) if how == "early" else len(data)
        for _ in range(rng.choice([1, 1, 3, 20])):
            changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    start, length = rng.randrange(len(data)), rng.randrange(1, 64)
    if how == "move":
        at = rng.randrange(len(data))
        changed[at:at] = data[start : start + length]
    elif how == "zero":
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    elif how == "grow":
        changed += data[start : start + length]
    return bytes(changed)


def encoded(document: Any) -> bytes:
    """Return JSON as Python writes it, NaN and half characters too."""
    return json.dumps(document).encode()


def guarded(folder: Path, cases: Iterable[tuple[int, Ask]], report: Path) -> None:
    """Do all cases and write down, per seed, what must not happen.

    Parameters
    ----------
    folder
        The only place where may be written.
    cases
        A seed, and what to ask. Errors of ours are answers; anything else is written down.
    report
        File of lines.
    """
    from soapworks.errors import SoapworksError

    said: list[str] = []
    inside, armed = str(folder.resolve()), False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if not armed:
            return
        if event in _FORBIDDEN:
            said.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else inside
            if os.path.abspath(path) != "/dev/null" and not str(path).startswith(inside):  # noqa: PTH100
                said.append(f"writes {path}")

    sys.addaudithook(audit)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, resource.RLIM_INFINITY))
    with report.open("w") as log:
        for seed, ask in cases:
            armed = True
            try:
                ask()
            except SoapworksError as error:
                if len(str(error)) > 4000 or "\n" in str(error).strip():
                    said.append(f"is told at length: {str(error)[:200]!r}")
            except BaseException as error:  # noqa: BLE001  (the point of it)
                said.append(_told(error))
            armed = False
            for words in said:
                log.write(f"seed {seed}: {words}\n")
            log.flush()
            said.clear()
        log.write("end\n")


def _told(error: BaseException) -> str:
    trace, places = error.__traceback__, []
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:200]!r} at {' '.join(places[-5:])}"
