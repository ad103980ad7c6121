"""How many runs may compute at once: a concurrency limit that Prefect keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Timer

from prefect.concurrency.sync import concurrency

from soapworks.errors import EngineError
from soapworks.tasks.events import Waiting, emit
from soapworks.tasks.settings import RunOptions

GPU_LIMIT = "soapworks-gpu"
"""Limit for runs on CUDA devices; without it on the server, they are not limited."""

NOTICE_SECONDS = 2.0
"""Seconds after which waiting for a slot is reported."""

LEASE_SECONDS = 60.0
"""Seconds after which the slot of a killed run is free again; Prefect's shortest."""


@contextmanager
def forward_pass_limit(options: RunOptions) -> Iterator[None]:
    """Hold a slot of the run's concurrency limit inside the block.

    Raises
    ------
    EngineError
        If the options name a limit that the server does not have, or that is off.
    """
    name = options.concurrency_limit or _default_limit(options)
    if name is None:
        yield
        return
    if options.concurrency_limit:
        _require_limit(name)
    message = f"waiting for a slot of the concurrency limit {name}"
    notice = Timer(NOTICE_SECONDS, copy_context().run, (emit, Waiting(message)))
    notice.daemon = True
    notice.start()
    try:
        # A lease that could not be renewed once must not end hours of passes.
        with concurrency(
            name,
            occupy=1,
            strict=options.concurrency_limit is not None,
            lease_duration=LEASE_SECONDS,
            raise_on_lease_renewal_failure=False,
        ):
            notice.cancel()
            yield
    finally:
        notice.cancel()


def _default_limit(options: RunOptions) -> str | None:
    """Return the limit for CUDA devices; a cluster limits by its own resources."""
    from soapworks.tasks.passes.loading import resolve_device

    if options.dask is not None:
        return None
    return GPU_LIMIT if resolve_device(options.device).startswith("cuda") else None


def _require_limit(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound as error:
        raise EngineError(
            f"the Prefect server has no concurrency limit {name!r}: create it with `prefect gcl "
            f"create {name} --limit 1`, or leave --concurrency-limit out"
        ) from error
    if not limit.active:
        raise EngineError(
            f"the concurrency limit {name!r} is switched off: switch it on with `prefect gcl "
            f"enable {name}`, or leave --concurrency-limit out"
        )
