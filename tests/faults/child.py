"""A process that runs all stages of a request, with something going wrong on the way."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.primitives import Fault, Interference


@dataclass(frozen=True)
class Job:
    """What a child is to do."""

    request: Any
    """A ScoreRequest."""
    folder: Path
    """Where it says what it did: forwards, outcome, log."""
    fault: Fault | None = None
    sabotage: "Callable[[Job], None] | None" = None
    """Called before the run, in the child: breaks something there. A function of a module, or a
    partial of one."""
    host: str = ""
    """Name of the machine that it pretends to run on."""
    environment: dict[str, str] = field(default_factory=dict)

    def struck(self) -> None:
        """Note that the fault came."""
        (self.folder / "struck").touch()


def work(job: Job) -> None:
    """Run the job; what happened is in the job's folder."""
    _redirect(job.folder / "log")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= job.environment
    import torch
    from fsspec.config import conf, set_conf_env

    set_conf_env(conf)  # it was read from the environment where this process was forked from

    from soapworks.storage_schemas.leasing import processes
    from tests.tasks.conftest import run_stages

    torch.set_num_threads(1)
    if job.host:
        machine = {**processes.this_machine(), "host": job.host}
        processes.this_machine = lambda: machine  # type: ignore[assignment]
    count_forwards(job.folder / "forwards")
    note_published(job.folder / "published")
    if job.sabotage:
        job.sabotage(job)
    if job.fault:
        Interference(job.request.options.store, job.fault, job.folder).arm()
    outcome: dict[str, Any] = {"error": None, "clear": True}
    try:
        run_stages(job.request)
    except BaseException as error:
        import traceback

        from soapworks.errors import SoapworksError

        traceback.print_exc()
        outcome = {"error": f"{type(error).__name__}: {error}"}
        outcome["clear"] = isinstance(error, SoapworksError)
        if not isinstance(error, Exception):
            raise
    finally:
        (job.folder / "outcome.json").write_text(json.dumps(outcome))


def furnish(folder: Path, n_photographs: int) -> None:
    """Write what is scored: a checkpoint and photographs. In a child, which has torch already."""
    from tests.small import write_checkpoint, write_photographs

    write_checkpoint(folder / "checkpoint")
    write_photographs(folder / "photographs", n_photographs)


def count_forwards(file: Path) -> None:
    """Write down every forward pass as it begins, so that a kill does not hide it."""
    from soapworks.backbones import Backbone

    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    original = Backbone.features

    def features(self: Any, images: Any, layers: Any) -> Any:
        os.write(log, f"{len(images)} {','.join(layers)}\n".encode())
        return original(self, images, layers)

    Backbone.features = features  # type: ignore[method-assign]


def note_published(file: Path) -> None:
    """Write down every product that was published, once that was promised."""
    from soapworks.storage_schemas.publishing.attempts import Attempt

    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    original = Attempt.publish

    def publish(self: Any, facts: dict[str, Any]) -> Any:
        product = original(self, facts)
        os.write(log, f"{product.address}\n".encode())
        return product

    Attempt.publish = publish  # type: ignore[method-assign]


def _redirect(log: Path) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
