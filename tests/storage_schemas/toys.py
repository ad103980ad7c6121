"""A small product to store, and processes that make it while the tests do their worst.

Workers are talked to word by word: they say what they did and wait for what to do next, so no
test depends on how long anything takes.
"""

import os
import time
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import numpy as np

from soapworks.storage_schemas.layout.recipes import Recipe
from soapworks.storage_schemas.leasing import processes
from soapworks.storage_schemas.leasing.leases import LeaseLostError
from soapworks.storage_schemas.publishing.attempts import Attempt
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from tests.children import CONTEXT

N_BLOCKS = 4
DEADLINE = 40.0


class Toy(Recipe):
    kind: ClassVar[str] = "toys"
    n: int = 0

    def _slug_parts(self) -> tuple[str, ...]:
        return ("toy", f"n{self.n}")


def block_values(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((4, 6, 8)).astype("float16")


def array_of(attempt: Attempt) -> Any:
    group = attempt.writer.zarr_group()
    return group.create_array(
        "features",
        shape=(4 * N_BLOCKS, 6, 8),
        shards=(4, 6, 8),
        chunks=(1, 6, 8),
        dtype="float16",
        dimension_names=("image", "row", "channel"),
        overwrite=True,
    )


def write_blocks(attempt: Attempt, numbers: range | None = None) -> list[int]:
    """Write the blocks that are not finished yet; return their numbers."""
    array, done = array_of(attempt), attempt.writer.finished_parts()
    wanted = range(N_BLOCKS) if numbers is None else numbers
    made = [number for number in wanted if f"block-{number}" not in done]
    for number in made:
        array[4 * number : 4 * number + 4] = block_values(number)
        attempt.writer.finish_part(f"block-{number}", [f"arrays.zarr/features/c/{number}"])
    return made


def make(attempt: Attempt) -> Product:
    with attempt:
        write_blocks(attempt)
        attempt.writer.write("table.txt", b"a table\n")
        return attempt.publish({"n_blocks": N_BLOCKS})


def get_or_make(store: Store, recipe: Recipe) -> tuple[Product, bool]:
    """Return the product and whether this process made it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        claimed = store.claim(recipe)
        if isinstance(claimed, Product):
            return claimed, False
        if claimed is not None:
            product = make(claimed)
            return product, product.data == claimed.location
        time.sleep(0.02)
    raise TimeoutError("nobody made the product")


class Worker:
    """A process that works on the product of ``Toy(n=0)`` in a store.

    Started from a server process that has everything imported, so it is there at once.
    """

    def __init__(self, mode: str, store: Store, *, host: str = "") -> None:
        self._ours, theirs = CONTEXT.Pipe()
        environment = {name: value for name, value in os.environ.items() if name[:4] == "AWS_"}
        arguments = (theirs, mode, store.url, store.lease_seconds, host, environment)
        self._process = CONTEXT.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def hear(self) -> list[str]:
        """Return the next thing it says, in words."""
        if not self._ours.poll(DEADLINE):
            raise TimeoutError("the worker said nothing")
        return self._ours.recv().split()

    def tell(self, word: str) -> None:
        self._ours.send(word)

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> int | None:
        self._process.join(DEADLINE)
        return self._process.exitcode

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._ours.close()


def _work(
    pipe: Connection, mode: str, url: str, seconds: float, host: str, environment: dict[str, str]
) -> None:
    os.environ |= environment
    if host:
        machine = {**processes.this_machine(), "host": host}
        processes.this_machine = lambda: machine  # type: ignore[assignment]
    store, recipe = Store(url, lease_seconds=seconds), Toy()
    pipe.send("ready")
    pipe.recv()
    if mode == "get_or_make":
        product, made = get_or_make(store, recipe)
        pipe.send(f"{'made' if made else 'found'} {product.data.name}")
        return
    attempt = store.claim(recipe)
    assert isinstance(attempt, Attempt)
    with attempt:
        taken = attempt.writer.finished_parts()
        write_blocks(attempt, range(N_BLOCKS - 1))
        if mode == "torn":  # a block whose files are there and whose note is not
            array = attempt.writer.zarr_group()["features"]
            array[4 * (N_BLOCKS - 1) :] = 0
        pipe.send(f"holding {attempt.location.name} {len(taken)}")
        word = pipe.recv()
        try:
            write_blocks(attempt)
            if word == "part":
                pipe.send("finished")
            else:
                attempt.writer.write("table.txt", b"a table\n")
                product = attempt.publish({"n_blocks": N_BLOCKS})
                won = product.data == attempt.location
                pipe.send(f"{'published' if won else 'adopted'} {product.data.name}")
        except LeaseLostError:
            pipe.send("lost")
