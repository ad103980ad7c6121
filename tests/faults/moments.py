"""Moments of a run at which something may go wrong, told so that another run meets them too."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.primitives import Fault, plain

_NUMBERS = re.compile(r"(?<=/c)(/\d+)+|\d{6}(?=\.json)")


@dataclass(frozen=True)
class Moment:
    """A change to the store.

    Attributes
    ----------
    step, path
        Name of the step and a pattern of its path; random names are left open.
    at
        Which of the steps that match.
    """

    step: str
    path: str
    at: int

    @property
    def sort(self) -> tuple[str, str]:
        """What it is a change of, whichever product and block."""
        place = "" if self.step == "mkdir" else self.path.split("/", 2)[-1]
        return self.step, _NUMBERS.sub("#", place)

    def fault(self, kind: str, seed: int = 0) -> Fault:
        """Return the fault of this moment."""
        return Fault(kind, self.at, self.step, self.path, seed)


def moments(steps: Sequence[tuple[str, str]]) -> list[Moment]:
    """Return the moments of a run whose steps were written down."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for step, path in steps:
        pattern = plain(path)
        seen[step, pattern] += 1
        if step in ("open", "mkdir") and seen[step, pattern] > 1:
            continue  # how often a folder is found missing is a matter of threads
        found.append(Moment(step, pattern, seen[step, pattern]))
    return found


def one_of_each_sort(found: Sequence[Moment], seed: int) -> list[Moment]:
    """Return one moment of every sort, chosen by the seed, in a fixed order."""
    sorts: dict[tuple[str, str], list[Moment]] = {}
    for moment in found:
        sorts.setdefault(moment.sort, []).append(moment)
    # Threads change the order of steps from run to run: the choice must not depend on it.
    return [
        random.Random(f"{seed} {sort}").choice(sorted(sorts[sort], key=repr))
        for sort in sorted(sorts)
    ]
