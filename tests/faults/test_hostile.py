"""Checkpoints and stores made up to do harm: a clear refusal, little memory, nothing written."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.children import CONTEXT
from tests.faults import hostile_readers
from tests.faults.arena import Arena
from tests.faults.hostile import guarded
from tests.faults.many import AT_ONCE
from tests.small import write_checkpoint

READERS = ("checkpoints", "stores")


def read(reader: str, whole: Path, folder: Path, seeds: range) -> None:
    """Read, in a child, one hostile thing per seed."""
    import torch

    torch.set_num_threads(1)
    cases = getattr(hostile_readers, reader)(whole, folder / "place", seeds)
    guarded(folder, cases, folder / "report")


def check(reader: str, arena: Arena, seeds: range) -> None:
    arena.counts["hostile"] += len(seeds)
    folder = arena.scratch()
    whole = arena.reference
    if reader == "checkpoints":
        whole = write_checkpoint(folder / "whole")
    child = CONTEXT.Process(target=read, args=(reader, whole, folder, seeds), daemon=True)
    child.start()
    child.join(800)
    code = child.exitcode
    if code is None:
        child.kill()
        child.join()
    child.close()
    lines = (folder / "report").read_text().splitlines()
    assert lines == ["end"], "\n".join([f"the process ended with {code}", *lines[:60]])
    shutil.rmtree(folder)


@pytest.mark.parametrize("reader", READERS)
def test_a_few(arena: Arena, reader: str) -> None:
    check(reader, arena, range(60))


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("reader", READERS)
def test_many(arena: Arena, reader: str) -> None:
    halves = range(60, 780), range(780, 1500)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(partial(check, reader, arena), halves):
            pass
