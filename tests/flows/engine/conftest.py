"""A command's engine with a server of its own, for a module."""

import os
from collections.abc import Iterator

import psutil
import pytest

from soapworks.flows.engine.session import Engine, orchestrated


@pytest.fixture(autouse=True, scope="session")
def _prefect_is_imported_first() -> None:
    """Prefect keeps the settings of its import, so no test's own may be among them."""
    import prefect.main  # noqa: F401


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with orchestrated() as engine:
            yield engine
    assert not psutil.pid_exists(engine.server_pid or 0)
    assert not {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"} & set(os.environ)
