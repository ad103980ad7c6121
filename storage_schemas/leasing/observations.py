"""How long this process has seen a value unchanged: clocks of two machines are never compared."""

import threading
from collections.abc import Hashable


class Observations:
    """When each name was first seen with its present value; safe to share between threads."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}
        self._lock = threading.Lock()

    def unchanged_for(self, name: Hashable, value: Hashable, now: float) -> float:
        """Return for how long a name has been seen with this value, seconds.

        Parameters
        ----------
        name, value
            For example a file, and its bytes or fingerprint.
        now
            The time by a clock that never goes back, seconds.
        """
        with self._lock:
            before, since = self._seen.get(name, (None, now))
            if before != value:
                self._seen[name] = (value, now)
                return 0.0
            return now - since
