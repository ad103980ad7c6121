import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.faults.arena")

from tests.faults.arena import Arena  # noqa: E402

MEMORY = "/dev/shm"
_counts: Counter[str] = Counter()


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The undisturbed run that all others are compared with."""
    # In memory where there is such a place: hundreds of runs sync hundreds of files each.
    in_memory = os.access(MEMORY, os.W_OK | os.X_OK)
    folder = Path(tempfile.mkdtemp(dir=MEMORY)) if in_memory else tmp_path_factory.mktemp("faults")
    arena = Arena(folder)
    yield arena
    _counts.update(arena.counts)
    shutil.rmtree(folder)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _counts:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(_counts.items()))
        terminalreporter.write_line(f"{_counts.total()} faults injected: {kinds}")
