"""Real Dask clusters for tests, and what can be done to their workers.

Worker processes do not see what a test patches in its own. Plugins do the patching over there, in
workers that are started again too, and note in a folder what the workers did.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin

DEADLINE = 120.0
CLOSE_SECONDS = 20.0


@contextmanager
def cluster_of(*workers: dict[str, Any]) -> Iterator[SpecCluster]:
    """A scheduler and worker processes on loopback, each of one thread; yields the cluster."""
    common = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": "4GiB", "dashboard": False}
    cluster = SpecCluster(
        scheduler={
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
        },
        workers={
            number: {"cls": Nanny, "options": {**common, **options}}
            for number, options in enumerate(workers)
        },
    )
    try:
        yield cluster
    finally:
        processes = [nanny.pid for nanny in cluster.workers.values()]
        # At the end of a long session closing in order was seen to wait for ever.
        with suppress(TimeoutError):
            cluster.close(timeout=CLOSE_SECONDS)
        for pid in filter(None, processes):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


@contextmanager
def on_workers(address: str, plugin: WorkerPlugin) -> Iterator[Client]:
    """Have a plugin on all workers inside the block."""
    with Client(address, set_as_default=False) as client:
        client.register_plugin(plugin, name="tests")
        try:
            yield client
        finally:
            client.unregister_worker_plugin("tests")


class Patches(WorkerPlugin):
    """Notes forward passes; subclasses change what workers do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def setup(self, worker: Worker) -> None:
        from soapworks.backbones import Backbone

        self.patch = pytest.MonkeyPatch()
        original = Backbone.features
        notes = self.folder / f"{uuid.uuid4().hex}.passes"

        def features(backbone: Backbone, images: Any, layers: Any) -> Any:
            with notes.open("a") as file:
                file.write(json.dumps([os.getpid(), len(images), list(layers)]) + "\n")
            return original(backbone, images, layers)

        self.patch.setattr(Backbone, "features", features)

    def teardown(self, worker: Worker) -> None:
        self.patch.undo()

    @property
    def passes(self) -> list[tuple[int, int, list[str]]]:
        """Process, number of images and layers of every forward pass of the workers."""
        lines = [line for f in self.folder.glob("*.passes") for line in f.read_text().splitlines()]
        return [tuple(json.loads(line)) for line in lines]

    @property
    def n_images(self) -> int:
        return sum(n for _, n, _ in self.passes)


class StandStill(Patches):
    """The first worker that is about to write a block tells its process and waits to be killed."""

    def setup(self, worker: Worker) -> None:
        super().setup(worker)
        from soapworks.tasks.stages import extract, stream

        for module in (extract, stream):
            self.patch.setattr(module, "write_block", self._standing(module.write_block))

    def _standing(self, original: Any) -> Any:
        def write_block(*arguments: Any) -> None:
            try:
                file = os.open(self.folder / "standing", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                original(*arguments)
                return
            os.write(file, str(os.getpid()).encode())
            os.close(file)
            time.sleep(DEADLINE)

        return write_block

    def wait_for_process(self) -> int:
        """Return the process that stands still, once it does."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            told = self.folder / "standing"
            if told.exists() and (text := told.read_text()):
                return int(text)
            time.sleep(0.01)
        raise AssertionError("no worker came to write a block")


class LittleMemory(Patches):
    """The workers' memory is enough for two images at a time."""

    def setup(self, worker: Worker) -> None:
        super().setup(worker)
        import torch

        from soapworks.backbones import Backbone

        original = Backbone.features

        def features(backbone: Backbone, images: Any, layers: Any) -> Any:
            if len(images) > 2:
                raise torch.OutOfMemoryError("as on a full device")
            return original(backbone, images, layers)

        self.patch.setattr(Backbone, "features", features)


class WithoutSoapworks(WorkerPlugin):
    """Workers on which nobody installed the project."""

    def setup(self, worker: Worker) -> None:
        self.patch = pytest.MonkeyPatch()
        import sys

        self.patch.setitem(sys.modules, "soapworks.tasks.executors", None)

    def teardown(self, worker: Worker) -> None:
        self.patch.undo()
