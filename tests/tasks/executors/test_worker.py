import os
import platform
import subprocess
import sys

import pytest

ALLOCATING = """
import resource
import numpy as np
from soapworks.tasks.executors.worker import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1 << 17)  # 1 MiB, 256 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

n_before = faults()
assert keep_freed_memory()
faults()
print(n_before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_what_a_pass_frees_is_kept_for_the_next() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask starts its workers
    command = [sys.executable, "-c", ALLOCATING]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    n_before, n_after = map(int, told.stdout.split())
    assert n_before > 20 * 200
    assert n_after < 200
