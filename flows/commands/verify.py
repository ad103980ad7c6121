"""``soapworks verify``: whether what is stored is still what was published."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tasks.repair import Repair
    from tasks.verify import Verification

SHOWN = 5
"""Damaged files of a product that are named to people; JSON names all."""


@click.command()
@click.argument("key", required=False)
@click.option("--store", default="store", show_default=True, help="A folder or s3://bucket/prefix.")
@click.option(
    "--repair",
    is_flag=True,
    help="Withdraw what is damaged, and make again what needs no forward pass.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Show results and errors only.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="Threads that read.",
)
def verify(
    key: str | None, store: str, repair: bool, as_json: bool, quiet: bool, workers: int
) -> None:
    """Read every byte in a store and name what is damaged or missing.

    KEY limits this to one product (its key, first digits, address or path) or to a kind of
    product (features, moments, ...). The exit status is 1 where damage is left.

    With --repair damaged products are withdrawn: the next run that needs one makes it again, from
    all of it that is whole. Moments, components, responses, scores and heads are made again at
    once where the products they are made from are there.
    """
    from flows.progress import showing_progress
    from storage_schemas.store import Store
    from tasks.settings import RunOptions
    from tasks.verify import verify as check

    place = Store(store)
    with showing_progress(quiet=quiet):
        found = check(place, key, workers=workers)
        repairs: list[Repair] | None = None
        if repair:
            from tasks.repair import repair as mend

            memory = RunOptions().memory
            repairs = mend(place, found.damaged, memory=memory, workers=workers)
    left = len(found.damaged if repairs is None else [r for r in repairs if r.outcome == "left"])
    if as_json:
        from flows.printing import print_json

        print_json(as_plain(found, repairs) | {"left": left})
    else:
        for line in (*told(found), *told_repairs(found, repairs)):
            click.echo(line)
    if left:
        sys.exit(1)


def as_plain(found: "Verification", repairs: "list[Repair] | None") -> dict[str, Any]:
    """Return a check's result as plain data."""
    return {
        "n_products": found.n_products,
        "n_files": found.n_files,
        "n_bytes": found.n_bytes,
        "damaged": [
            {
                "address": one.address,
                "key": one.product.key if one.product else None,
                "damages": [
                    {"path": d.path, "reason": d.reason, "certain": d.certain} for d in one.damages
                ],
            }
            for one in found.damaged
        ],
        "repairs": None if repairs is None else [vars(one) for one in repairs],
        "unnamed": [vars(one) for one in found.unnamed],
        "later": list(found.later),
    }


def told(found: "Verification") -> list[str]:
    """Return a check's result in lines for people."""
    from tasks.sizes import size

    lines = []
    for one in found.damaged:
        lines.append(f"{one.address} is damaged:")
        lines += [f"  {damage}" for damage in one.damages[:SHOWN]]
        if len(one.damages) > SHOWN:
            lines.append(f"  and {len(one.damages) - SHOWN} more files")
    lines += [f"not looked at: {sentence}" for sentence in found.later]
    lines += [
        f"in no record: {one.path} ({one.n_files} files, {size(one.n_bytes)})"
        for one in found.unnamed
    ]
    bad = sum(1 for one in found.damaged if one.product)
    unreadable = len(found.damaged) - bad
    state = f"{bad} damaged" if bad else "all whole" if found.n_products else "nothing to verify"
    more = f", {unreadable} more whose record cannot be understood" if unreadable else ""
    return [
        *lines,
        f"{found.n_products} products, {found.n_files} files, {size(found.n_bytes)}: {state}{more}",
    ]


def told_repairs(found: "Verification", repairs: "list[Repair] | None") -> list[str]:
    """Return what became of damaged products, or what to do about them, in lines for people."""
    words = {
        "remade": "made again",
        "withdrawn": "withdrawn",
        "replaced": "made again by another process",
        "kept": "kept",
        "left": "left as it is",
    }
    if repairs is None:
        return ["run soapworks verify --repair to mend it"] if found.damaged else []
    return [
        f"{one.address}: {words[one.outcome]}{'; ' if one.note else ''}{one.note}"
        for one in repairs
    ]
