"""Write the tables of docs/evidence.md from the results.

    python -m benchmarks.evidence.page RESULTS.parquet PAGE.md

Replaces what stands between the two marks of the page; the words around them are written by hand.
"""

import sys
from pathlib import Path

import pandas as pd

from benchmarks.evidence.heads import RAW
from soapworks.evaluation import Comparison, compare

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
SIGNS = {"helps": "▲", "hurts": "▼", "cannot be told": "·"}

TASKS = {
    "correspondence": "Dense correspondence: share of patches whose nearest neighbour in a shifted "
    "crop is at most one patch from the true partner",
    "same place": "Beside it, the share whose nearest neighbour stands at the same place of the "
    "grid: a position code has 1. Less is better here",
    "saliency, vmax": "Salient object (TokenCut, seed = largest entry of the eigenvector): IoU",
    "saliency, guided": "Salient object (TokenCut, seed = strongest response of the component of "
    "highest SI in the raw features): IoU",
    "knn segmentation": "Patch labels by 20 nearest neighbours: mean IoU of object and background",
    "retrieval": "Retrieval of the same object on another background, pooled tokens: average "
    "precision",
}


def main(results: Path, page: Path) -> None:
    """Replace the page's tables."""
    table = pd.read_parquet(results)
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [summary(table), *(task_table(table, task, about) for task, about in TASKS.items())]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


def compared(table: pd.DataFrame, task: str, layer: str, head: str) -> Comparison:
    """Compare a head with the raw features, image by image; groups are drawn whole."""
    rows = table[(table.task == task) & (table.layer == layer)]
    raw = rows[rows["head"] == RAW].sort_values("image")
    other = rows[rows["head"] == head].sort_values("image")
    sign = -1 if task == "same place" else 1
    return compare(sign * raw.value, sign * other.value, groups=raw.group)


def task_table(table: pd.DataFrame, task: str, about: str) -> str:
    """Return one task's table: layers down, raw and the differences of heads across."""
    rows = table[table.task == task]
    layers, heads = _layers(rows), [h for h in _order(rows, "head") if h != RAW]
    n_images, n_groups = rows.image.nunique(), rows.group.nunique()
    lines = [
        f"### {task}",
        "",
        f"{about}. {n_images} images or pairs, {n_groups} independent groups. Raw: the mean; "
        "heads: the difference to raw.",
        "",
        f"| layer | raw | {' | '.join(heads)} |",
        f"|---|---:|{'---:|' * len(heads)}",
    ]
    means = rows[rows["head"] == RAW].groupby("layer").value.mean()
    for layer in layers:
        cells = []
        for head in heads:
            found = compared(table, task, layer, head)
            difference = -found.difference if task == "same place" else found.difference
            cells.append(f"{difference:+.3f} {SIGNS[found.verdict]}")
        lines.append(f"| {layer} | {means[layer]:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(table: pd.DataFrame) -> str:
    """Return how often each head helps and hurts, per task, over all layers."""
    tasks = [task for task in TASKS if task != "same place"]
    layers = _layers(table)
    lines = [
        "### In how many layers a head helps and hurts",
        "",
        f"Of {len(layers)} layers: helps ▲ / hurts ▼; in the rest it cannot be told.",
        "",
        f"| head | {' | '.join(tasks)} |",
        f"|---|{'---:|' * len(tasks)}",
    ]
    for head in _order(table, "head"):
        if head == RAW:
            continue
        cells = []
        for task in tasks:
            verdicts = [compared(table, task, layer, head).verdict for layer in layers]
            cells.append(f"{verdicts.count('helps')} ▲ / {verdicts.count('hurts')} ▼")
        lines.append(f"| {head} | {' | '.join(cells)} |")
    lines += ["", "SOAP's differences in full, last layers, with 95 % intervals:", ""]
    lines += [f"| layer | head | {' | '.join(tasks)} |", f"|---|---|{'---|' * len(tasks)}"]
    for layer in layers[-2:]:
        for head in ("SOAP, mu = 2", "SOAP, mu = threshold"):
            cells = []
            for task in tasks:
                found = compared(table, task, layer, head)
                needed = "" if found.n_needed is None else f", {found.n_needed:,} groups"
                cells.append(
                    f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{needed}"
                )
            lines.append(f"| {layer} | {head} | {' | '.join(cells)} |")
    lines += [
        "",
        "After each interval: the independent groups with which half that difference "
        "could be seen.",
    ]
    return "\n".join(lines)


def _order(table: pd.DataFrame, column: str) -> list[str]:
    return list(dict.fromkeys(table[column]))


def _layers(table: pd.DataFrame) -> list[str]:
    """Return the layers by depth; the final norm comes last."""
    return sorted(table.layer.unique(), key=lambda layer: (layer == "norm", len(layer), layer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
