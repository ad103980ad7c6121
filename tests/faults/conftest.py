import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import arena as arenas
from tests.faults.arena import Arena
from tests.small import write_checkpoint, write_photographs

MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The undisturbed run that all others are compared with."""
    # In memory where there is such a place: hundreds of runs sync hundreds of files each.
    in_memory = os.access(MEMORY, os.W_OK | os.X_OK)
    folder = Path(tempfile.mkdtemp(dir=MEMORY)) if in_memory else tmp_path_factory.mktemp("faults")
    arenas.preload()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    checkpoint = write_checkpoint(folder / "checkpoint")
    yield Arena(folder, checkpoint, write_photographs(folder / "photographs", 10))
    shutil.rmtree(folder)
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
