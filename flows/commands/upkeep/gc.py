"""``soapworks gc``: make room in a store."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from soapworks.flows.commands.options import json_option, quiet_option, store_option

if TYPE_CHECKING:
    from soapworks.tasks.maintenance.gc import Candidate, Candidates


class Features(click.ParamType):
    """How many images' features are kept: all, none, or a number."""

    name = "all|none|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number of images, or ``all``."""
        if value in ("all", "none") or isinstance(value, int):
            return 0 if value == "none" else value
        if not str(value).isascii() or not str(value).isdigit():
            self.fail(f"{value!r} is neither all, none nor a number of images.")
        return int(value)


@click.command()
@store_option
@click.option(
    "--keep-features",
    type=Features(),
    default="all",
    show_default=True,
    help="Features to keep: all, none, or those of the N most recently made images.",
)
@click.option(
    "--abandoned/--no-abandoned",
    default=True,
    show_default=True,
    help="Delete unfinished work that nobody goes on with; its finished blocks are lost.",
)
@click.option(
    "--unreferenced/--no-unreferenced",
    default=False,
    show_default=True,
    help="Delete what no score or head was made from, and manifests that newer ones replace.",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Age of unreferenced products; a run may still want younger ones.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0, max=3600),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds to observe leases of other machines: one without a heartbeat protects nothing.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would go; delete nothing.")
@json_option
@quiet_option
def gc(
    store: str,
    keep_features: int | str,
    abandoned: bool,
    unreferenced: bool,
    older_than: float,
    patience: float,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete from a store what is not to be kept, and say what went.

    Scores, heads and identities of checkpoints always stay, and so do moments, components and
    responses that they were made from: without its features a layer still gets heads with other
    settings; soapworks plan says what would need a forward pass. What somebody works on is never
    touched. --dry-run prints exactly what would go.
    """
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.terminal import echo
    from soapworks.storage_schemas.store import Store
    from soapworks.tasks.maintenance.gc import choose, clean
    from soapworks.tasks.maintenance.retention import Retention

    place = Store(store)
    retention = Retention(
        keep_features=keep_features if isinstance(keep_features, int) else None,
        abandoned=abandoned,
        unreferenced=unreferenced,
        older_than=timedelta(hours=older_than),
    )
    with showing_progress(quiet=quiet):
        chosen = choose(place, retention, patience=patience)
        deleted, left = ([], {}) if dry_run else clean(place, chosen)
    if as_json:
        from soapworks.flows.display.tables import print_json

        print_json(to_dict(chosen, deleted, left, dry_run=dry_run))
    else:
        print_chosen(chosen)
        for line in summary_lines(chosen, deleted, left, dry_run=dry_run):
            echo(line)
    if left:
        sys.exit(1)


def to_dict(
    chosen: "Candidates", deleted: "list[Candidate]", left: dict[str, str], *, dry_run: bool
) -> dict[str, Any]:
    """Return what was chosen and what became of it as plain data."""
    gone = {choice.path for choice in deleted}
    return {
        "dry_run": dry_run,
        "chosen": [
            {
                "path": choice.path,
                "n_bytes": choice.n_bytes,
                "reason": choice.reason,
                "deleted": choice.path in gone,
            }
            for choice in chosen.choices
        ],
        "n_bytes": chosen.n_bytes,
        "freed_bytes": sum(choice.n_bytes for choice in deleted),
        "spared": list(chosen.spared),
        "left": left,
    }


def print_chosen(chosen: "Candidates") -> None:
    """Print a line per choice, the same in a dry run and in a real one."""
    from rich.filesize import decimal

    from soapworks.flows.display.terminal import DataTable, console

    table = DataTable("path", "size", "why")
    for choice in chosen.choices:
        table.add_row(choice.path, decimal(choice.n_bytes), choice.reason)
    if chosen.choices:
        console().print(table, soft_wrap=True)


def summary_lines(
    chosen: "Candidates", deleted: "list[Candidate]", left: dict[str, str], *, dry_run: bool
) -> list[str]:
    """Return what became of the choices in lines for people."""
    from rich.filesize import decimal

    lines = [f"spared: {sentence}" for sentence in chosen.spared]
    lines += [f"left: {path}: {reason}" for path, reason in left.items()]
    if not chosen.choices:
        return [*lines, "nothing to delete"]
    if dry_run:
        return [*lines, f"would free {decimal(chosen.n_bytes)} in {len(chosen.choices)} items"]
    freed = sum(choice.n_bytes for choice in deleted)
    return [*lines, f"freed {decimal(freed)} in {len(deleted)} items"]
