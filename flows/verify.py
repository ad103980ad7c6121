"""A store's integrity as a Prefect flow, for schedules: the same as ``soapworks verify``."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from soapworks.errors import DamagedProductError
from soapworks.flows.display.verification import n_left, repair_lines, summary_lines, to_dict
from soapworks.flows.engine.artifacts import publish_text
from soapworks.storage_schemas.store import Store
from soapworks.tasks.maintenance.repair import repair as mend
from soapworks.tasks.maintenance.verify import verify
from soapworks.tasks.settings import RunOptions


@flow(name="verify", flow_run_name="verify {store}")
def verify_store(store: str, what: str | None = None, repair: bool = False) -> dict[str, Any]:
    """Read every byte in a store and name what is damaged or missing.

    Parameters
    ----------
    store
        A folder or URL.
    what
        A kind of product, or one product; everything by default.
    repair
        Withdraw what is damaged, and make again what needs no forward pass.

    Returns
    -------
    dict
        What was found, as ``soapworks verify --json`` prints it.

    Raises
    ------
    DamagedProductError
        Where damage is left, so that the run fails and an automation can tell somebody.
    """
    found = check_store(store, what, repair)
    if found["left"]:
        more = "see the run's artifact" if repair else "run it with repair"
        raise DamagedProductError(f"{found['left']} products in {store} are damaged: {more}.")
    return found


@task(task_run_name="verify {store}", cache_policy=NO_CACHE)
def check_store(store: str, what: str | None, repair: bool) -> dict[str, Any]:
    """Read, and mend where that is asked for."""
    options = RunOptions(store=store)
    found = verify(Store(store), what, workers=options.workers)
    repairs = None
    if repair:
        repairs = mend(Store(store), found.damaged, memory=options.memory, workers=options.workers)
    lines = [*summary_lines(found), *repair_lines(found, repairs)]
    publish_text("soapworks-verify", f"# {store}", lines)
    return to_dict(found, repairs) | {"left": n_left(found, repairs)}
