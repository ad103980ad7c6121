"""What a check of a store found, and what became of it: for machines and for people."""

from collections.abc import Sequence
from typing import Any

from rich.filesize import decimal

from soapworks.tasks.maintenance.repair import Repair
from soapworks.tasks.maintenance.verify import Verification

SHOWN = 5
"""Damaged files of a product that are named to people; JSON names all."""


def n_left(found: Verification, repairs: Sequence[Repair] | None) -> int:
    """Return how many products are damaged still."""
    return len(found.damaged if repairs is None else [r for r in repairs if r.outcome == "left"])


def to_dict(found: Verification, repairs: Sequence[Repair] | None) -> dict[str, Any]:
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


def summary_lines(found: Verification) -> list[str]:
    """Return a check's result in lines for people."""
    lines = []
    for one in found.damaged:
        lines.append(f"{one.address} is damaged:")
        lines += [f"  {damage}" for damage in one.damages[:SHOWN]]
        if len(one.damages) > SHOWN:
            lines.append(f"  and {len(one.damages) - SHOWN} more files")
    lines += [f"not looked at: {sentence}" for sentence in found.later]
    lines += [
        f"in no record: {one.path} ({one.n_files} files, {decimal(one.n_bytes)})"
        for one in found.unnamed
    ]
    bad = sum(1 for one in found.damaged if one.product)
    unreadable = len(found.damaged) - bad
    state = f"{bad} damaged" if bad else "all whole" if found.n_products else "nothing to verify"
    more = f", {unreadable} more whose record cannot be understood" if unreadable else ""
    return [
        *lines,
        f"{found.n_products} products, {found.n_files} files, {decimal(found.n_bytes)}: "
        f"{state}{more}",
    ]


def repair_lines(found: Verification, repairs: Sequence[Repair] | None) -> list[str]:
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
