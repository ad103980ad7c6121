"""Results on standard output: tables for people, JSON for machines."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import click
from rich.filesize import decimal
from rich.text import Text

from soapworks.flows.display.terminal import DataTable, console, echo, text
from soapworks.names import redact, sentence
from soapworks.storage_schemas.layout.kinds import RECIPES
from soapworks.storage_schemas.layout.layer_summary import HEADINGS, LayerSummary
from soapworks.storage_schemas.layout.tables import HEAD_SCORES, SCORES, SCORES_TABLE, read_scores
from soapworks.storage_schemas.store import Product
from soapworks.tasks.plan.cost import Cost, Projection

LAYER_HEADINGS = {name: HEADINGS[name] for name in HEADINGS if name not in ("checkpoint", "head")}
"""Columns of a table about one checkpoint: name, heading."""


def print_summary(summaries: Sequence[LayerSummary], *, as_json: bool) -> None:
    """Print a run's summary: a row per (checkpoint, layer), and where the heads are."""
    if as_json:
        print_json([layer.model_dump() for layer in summaries])
        return
    for checkpoint, group in groupby(summaries, lambda layer: layer.checkpoint):
        first, *others = group
        table = DataTable(
            title=f"{checkpoint}: {first.n_components} components, {first.n_real} real and "
            f"{first.n_synthetic} synthetic images"
        )
        for name, heading in LAYER_HEADINGS.items():
            table.add_column(heading, justify="left" if name == "layer" else "right")
        for layer in (first, *others):
            table.add_row(*layer_cells(layer))
        console().print(table)
    if summaries:
        folder = summaries[0].head.rsplit("/", 1)[0]
        echo(f"heads: {folder}/   (soapworks ls heads, soapworks show KEY)")


def layer_cells(layer: LayerSummary) -> list[str]:
    """Return the cells of a layer under ``LAYER_HEADINGS``."""
    return [cell(name, getattr(layer, name)) for name in LAYER_HEADINGS]


def print_failures(failures: Mapping[str, str]) -> None:
    """Print on stderr which checkpoints failed, and why."""
    for checkpoint, why in failures.items():
        echo(sentence(f"soapworks: {checkpoint} failed: {why}"), err=True)


def print_projections(projections: Sequence[Projection], *, as_json: bool) -> None:
    """Print what a run would cost, checkpoint by checkpoint."""
    if as_json:
        print_json([asdict(p) | {"total_bytes": p.total_bytes} for p in projections])
        return
    for p in projections:
        table = DataTable(title=p.checkpoint, show_header=False)
        missing = [layer for layer in p.layers if layer not in p.cached_layers]
        left_out = f" ({p.n_unreadable} unreadable left out)" if p.n_unreadable else ""
        table.add_row("images", f"{p.n_images} real{left_out}, {p.n_synthetic} synthetic")
        table.add_row("preprocessing", p.preprocessing)
        table.add_row("there already", ", ".join(p.cached_layers) or "nothing")
        table.add_row("to be made", ", ".join(missing) or "nothing")
        table.add_row("forward passes", f"{p.forward_passes} images")
        for kind, n in p.products.items():
            if n:
                table.add_row(f"  {kind}", f"{n} products, {decimal(p.n_bytes[kind])}")
        for mode, name in (("all", "features kept"), ("none", "features streamed")):
            table.add_row(name, _cost(p.modes[mode], chosen=mode == p.keep_features))
        if p.images_without_features:
            table.add_row(
                "without features",
                f"{p.images_without_features} images: once some are added or removed, or "
                "with another --moments-precision, they need a forward pass again",
            )
        free = "unlimited" if p.free_bytes is None else decimal(p.free_bytes)
        more = f", {decimal(p.float32_bytes)} more at most in float32" if p.float32_bytes else ""
        table.add_row("disk", f"{decimal(p.total_bytes)} of {free} free{more}")
        table.add_row("memory, extraction", f"{decimal(p.extraction_memory)} beside activations")
        table.add_row("memory, statistics", f"at most {decimal(p.statistics_memory)} (--memory)")
        console().print(table)


def print_products(products: Sequence[Product], *, as_json: bool) -> None:
    """Print a line per product."""
    if as_json:
        print_json([_outline(product) for product in products])
        return
    table = DataTable("kind", "key", "name", "facts", "size", "made")
    kinds = list(RECIPES)
    for product in sorted(products, key=lambda p: (kinds.index(p.kind), p.record["created"])):
        outline = _outline(product)
        table.add_row(
            product.kind,
            product.key[:12],
            product.slug,
            _facts_in_short(outline["facts"]),
            decimal(outline["bytes"]),
            str(outline["created"])[:19],
        )
    console().print(table if products else "the store is empty")


def print_product(product: Product, *, top: int, as_json: bool) -> None:
    """Print one product whole."""
    outline = _outline(product) | {
        "recipe": product.recipe,
        "data": product.data.url,
        "made_by": product.record["made_by"],
        "files": product.record["files"],
    }
    scores = None
    if SCORES_TABLE in product.record["files"]:
        columns = HEAD_SCORES if product.kind == "heads" else SCORES
        n_rows = product.facts.get("n_components")
        scores = read_scores(product.read(SCORES_TABLE), columns, n_rows=n_rows)
    if as_json:
        if scores is not None:
            outline["scores"] = scores.to_dict("records")
        print_json(outline)
        return
    out = console()

    def line(*parts: Text) -> None:
        out.print(*parts, soft_wrap=True)

    line(text(f"{product.kind} {product.slug}", "bold"), text(f" {product.key}"))
    line(text(f"data: {product.data.url}"))
    for title in ("recipe", "facts", "made_by"):
        line(text(title, "bold"))
        for name, value in outline[title].items():
            line(text(f"  {name}: {_short(value)}"))
    line(text("files", "bold"), text(f"{len(outline['files'])}, {decimal(outline['bytes'])}"))
    for name, file in list(outline["files"].items())[:20]:
        line(text(f"  {name}  {decimal(file['bytes'])}  {file['sha256'][:12]}"))
    if scores is not None:
        shown = [column for column in scores.columns if column != "layer"]
        table = DataTable(*shown, title="best components")
        for row in scores.sort_values("rank").head(top).to_dict("records"):
            table.add_row(*(cell(column, row[column]) for column in shown))
        out.print(table)


def print_json(value: Any) -> None:
    """Print JSON; what is not a number (NaN) becomes null."""
    click.echo(json.dumps(_jsonable(value), indent=2))


def cell(name: str, value: Any) -> str:
    """Return a table's cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "share" in name:
        return f"{value:.1%}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cost(cost: Cost, *, chosen: bool) -> str:
    besides = f", {decimal(cost.work_bytes)} more while it runs" if cost.work_bytes else ""
    mark = " (as asked)" if chosen else ""
    return (
        f"{cost.forward_passes} forward passes, {decimal(cost.disk_bytes)} on disk{besides}{mark}"
    )


def _outline(product: Product) -> dict[str, Any]:
    return {
        "kind": product.kind,
        "key": product.key,
        "slug": product.slug,
        "location": product.location.url,
        "created": product.record["created"],
        "bytes": sum(file["bytes"] for file in product.record["files"].values()),
        "facts": product.record["facts"],
    }


def _facts_in_short(facts: dict[str, Any]) -> str:
    names = ("identifier", "folder", "n_images", "n_tokens", "top_si", "n_invariant")
    return ", ".join(f"{name} {cell(name, facts[name])}" for name in names if name in facts)


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    return value
