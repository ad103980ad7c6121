"""Draw scores against training steps: a table and a picture of every run in a watched folder.

The curves follow from the checkpoints' states alone, so the next process draws what a killed one
left undrawn.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soapworks.errors import DamagedProductError, MissingProductError
from soapworks.storage_schemas.layout.layer_summary import dtypes
from soapworks.storage_schemas.layout.names import decode, encode, slug
from soapworks.storage_schemas.leasing.leases import HeldError, held
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.watch.rules import DRAWN, CheckpointState
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.steps import TrainingStep, step_of

if TYPE_CHECKING:
    import pandas as pd

CURVES = "curves"
"""Folder of the curves, in that of the watch."""

DRAWN_FILE = "drawn.json"
"""File with the digest of the scores that the present curves show."""

VERSION = 1
"""Raised when the same scores give another table or picture."""

COLUMNS = {
    "run": "str",
    "unit": "str",
    "step": "int64",
    "checkpoint": "str",
    "digest": "str",
    **dtypes(*DRAWN),
    "head": "str",
}
"""Columns of a run's table, a row per (step, layer) by ascending step, layers in forward order."""

_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Curve:
    """The curve of one training run, as stored."""

    run: str
    """Name of the checkpoints with ``*`` for their numbers."""
    table: "pd.DataFrame"
    """Its table; see ``COLUMNS``."""
    picture: Location
    csv: Location
    parquet: Location


def tabulate(states: Mapping[str, CheckpointState]) -> "dict[str, pd.DataFrame]":
    """Return run -> table of all runs with a scored checkpoint.

    Parameters
    ----------
    states
        Of all checkpoints, deleted ones included. Of two with the same step (say, in two formats)
        the one that was scored later counts. Layers without a score have NaN.
    """
    import pandas as pd

    points: dict[str, dict[int, tuple[TrainingStep, CheckpointState]]] = {}
    for state in sorted(states.values(), key=lambda state: (state.since, state.path)):
        step = step_of(state.path)
        # After a permanent error the scores are those of a content that was replaced.
        if step is not None and state.scores and not (state.status == "failed" and state.permanent):
            points.setdefault(step.run, {})[step.number] = (step, state)
    tables = {}
    for run, steps in sorted(points.items()):
        rows = []
        for _, (step, state) in sorted(steps.items()):
            for layer in state.scores:
                rows.append(
                    {
                        **layer.model_dump(include={*DRAWN}),
                        "run": run,
                        "unit": step.unit,
                        "step": step.number,
                        "checkpoint": state.path,
                        "digest": state.digest,
                        "head": layer.key,
                    }
                )
        tables[run] = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return tables


def update_curves(watch: Watch) -> list[Curve]:
    """Write the curves if there are newer scores.

    Returns
    -------
    list of Curve
        Of all runs; empty where nothing changed, or where another process keeps writing them:
        newer scores are drawn the next time.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    folder = watch.place / CURVES
    if not are_behind(watch):
        return []
    try:
        with held(folder, watch.store.lease_seconds, patience=_WAIT_SECONDS) as lease:
            tables = tabulate(watch.read_all())
            curves = [_write(watch, folder, run, table) for run, table in tables.items()]
            lease.check()
            signature = _signature(watch, tables)
            (folder / DRAWN_FILE).write_bytes(encode({"format": 1, "of": signature}), durable=False)
    except HeldError:
        return []
    return curves


def are_behind(watch: Watch) -> bool:
    """Return whether there are scores that no curve shows yet."""
    return _drawn(watch.place / CURVES) != _signature(watch, tabulate(watch.read_all()))


def _write(watch: Watch, folder: Location, run: str, table: "pd.DataFrame") -> Curve:
    from soapworks.tasks.reports.charts import curves as draw

    words = slug(run)[:60].strip("-") or "steps"
    name = f"{words}-{hashlib.sha256(run.encode()).hexdigest()[:6]}"
    kind = watch.watching.chart
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    curve = Curve(
        run, table, folder / f"{name}.{kind}", folder / f"{name}.csv", folder / f"{name}.parquet"
    )
    curve.parquet.write_bytes(parquet.getvalue(), durable=False)
    curve.csv.write_bytes(table.to_csv(index=False, lineterminator="\n").encode(), durable=False)
    title = f"{watch.folder.name}/{run}" if watch.folder.name else run
    curve.picture.write_bytes(draw(table, title=title, kind=kind), durable=False)
    return curve


def _signature(watch: Watch, tables: "Mapping[str, pd.DataFrame]") -> str | None:
    """Return the digest of the tables; None where there is nothing to draw."""
    if not tables:
        return None
    drawn: dict[str, Any] = {run: table.to_csv(index=False) for run, table in tables.items()}
    what = json.dumps([VERSION, watch.watching.chart, drawn])
    return hashlib.sha256(what.encode()).hexdigest()


def _drawn(folder: Location) -> str | None:
    try:
        of = decode((folder / DRAWN_FILE).read_bytes(limit=1 << 16), folder / DRAWN_FILE).get("of")
    except (MissingProductError, DamagedProductError):
        return None
    return of if isinstance(of, str) else None
