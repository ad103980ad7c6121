"""Many injections, two at a time; a failure names the seed that repeats it."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 2
ONLY = "SOAPWORKS_FAULT_SEED"
"""Set it to do one injection of every test alone."""


def inject(seeds: Iterable[int], one: Callable[[int], object]) -> None:
    """Do one injection per seed, and tell all that went wrong."""
    only = os.environ.get(ONLY)
    chosen = [seed for seed in seeds if only is None or seed == int(only)]

    def attempt(seed: int) -> str | None:
        try:
            one(seed)
        except Exception as error:  # noqa: BLE001  (whatever it is, the other seeds go on)
            return f"{ONLY}={seed}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        failures = [words for words in threads.map(attempt, chosen) if words]
    assert not failures, f"{len(failures)} of {len(chosen)}:\n" + "\n\n".join(failures)
