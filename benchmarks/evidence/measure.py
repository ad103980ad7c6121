"""Measure every head of every layer in every task, image by image.

    python -m benchmarks.evidence.measure ROOT WORK

ROOT holds Debian's packages unpacked, WORK the converted weights (``weights.safetensors``,
``reference.npz``); images, store and ``results.parquet`` are written into WORK. What is there
already is not made again. Heads are fitted on half of the photographs and objects and judged on the
other half.
"""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.evidence.heads import heads_of, projected
from benchmarks.evidence.images import Material, read_material, write_set
from benchmarks.evidence.store import Fitted, read_layers, score
from soapworks.backbones import Backbone, build_backbone, open_checkpoint
from soapworks.evaluation import (
    correspondence,
    draw_crop_pair,
    intersection_over_union,
    tokencut,
)
from soapworks.evaluation.neighbours import nearest_neighbours, retrieve, vote
from soapworks.evaluation.saliency import upsample_nearest
from soapworks.images.preprocessing import preprocessing_for

ARCHITECTURE = "vit_small_patch14_dinov2.lvd142m"
SIZE = 224
N_FIT_BACKGROUNDS, N_FIT_OBJECTS = 192, 192
N_JUDGED = 120
N_PAIRS = 130
N_BANK, BANK_PATCHES = 96, 64
N_QUERY_IMAGES = 60
K = 20
BATCH = 8

Rows = list[dict[str, Any]]


def main(root: Path, work: Path) -> None:
    """Do what is missing and write the results."""
    torch.set_num_threads(2)
    material = read_material(root)
    write_set(
        material.half(0),
        work / "fit",
        n_backgrounds=N_FIT_BACKGROUNDS,
        n_objects=N_FIT_OBJECTS,
        seed=0,
    )
    write_set(material.half(1), work / "judged", n_backgrounds=0, n_objects=N_JUDGED, seed=1)
    weights = work / "weights.safetensors"
    checkpoint = open_checkpoint(str(weights), architecture=ARCHITECTURE)
    score(
        str(weights),
        ARCHITECTURE,
        work / "fit" / "images",
        work / "store",
        image_size=SIZE,
        synthetic_images=N_FIT_BACKGROUNDS + N_FIT_OBJECTS,
    )
    layers = read_layers(work / "store", checkpoint.digest)
    model = build_backbone(checkpoint, image_size=SIZE)
    check_against_reference(model, work / "reference.npz")
    rows: Rows = []
    for task in (measure_correspondence, measure_objects):
        start = time.monotonic()
        rows += task(model, layers, material.half(1), work)
        print(f"{task.__name__}: {time.monotonic() - start:.0f} s")
    pd.DataFrame(rows).to_parquet(work / "results.parquet")


def check_against_reference(model: Backbone, path: Path) -> None:
    """Refuse weights with which timm does not reproduce the package's own output."""
    with np.load(path) as reference:
        tokens = model.features(reference["images"], "norm")["norm"]
        expected = reference["tokens"][:, 1:].reshape(tokens.shape)
    worst = float(np.abs(tokens.numpy() - expected).max())
    if worst > 1e-3:
        raise SystemExit(f"the converted weights differ from the package's output by {worst:g}")
    print(f"timm reproduces the package's own output to {worst:.1e}")


def read(model: Backbone, images: list[Image.Image], layers: list[str]) -> dict[str, np.ndarray]:
    """Return layer -> (image, row, column, channel) float32, all layers in one pass."""
    apply = preprocessing_for("squash", size=SIZE, mean=model.mean, std=model.std).apply
    parts: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    for start in range(0, len(images), BATCH):
        batch = np.stack([apply(image) for image in images[start : start + BATCH]])
        for layer, values in model.features(batch, layers).items():
            parts[layer].append(values.numpy())
    return {layer: np.concatenate(some) for layer, some in parts.items()}


def black_features(model: Backbone, layers: list[str]) -> dict[str, np.ndarray]:
    """Return layer -> (row, column, channel) of a black image."""
    black = Image.new("RGB", (SIZE, SIZE))
    return {layer: values[0] for layer, values in read(model, [black], layers).items()}


def measure_correspondence(
    model: Backbone, layers: dict[str, Fitted], material: Material, _work: Path
) -> Rows:
    """Shifted crops of photographs: does a token find its content?"""
    rng = np.random.default_rng(0)
    patch = SIZE // model.grid[0]
    pairs, crops = [], []
    for number in range(N_PAIRS):
        photograph = number % len(material.photographs)
        image = material.photographs[photograph].copy()
        # Shorter side of one and a half to three crops: content at several scales.
        scale = SIZE * rng.uniform(1.5, 3) / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        pair = draw_crop_pair((image.height, image.width), (SIZE, SIZE), (patch, patch), rng)
        for top, left in (pair.first, pair.second):
            crops.append(image.crop((left, top, left + SIZE, top + SIZE)))
        pairs.append((photograph, pair.offset))
    tokens, black = read(model, crops, list(layers)), black_features(model, list(layers))
    rows: Rows = []
    for layer, fitted in layers.items():
        for head, values in projected(heads_of(fitted, black[layer]), tokens[layer]):
            for number, (photograph, offset) in enumerate(pairs):
                found = correspondence(values[2 * number], values[2 * number + 1], offset)
                for task, value in (
                    ("correspondence", found.pck),
                    ("same place", found.same_place),
                ):
                    rows.append(_row(task, layer, head, number, photograph, value))
    return rows


def measure_objects(
    model: Backbone, layers: dict[str, Fitted], _material: Material, work: Path
) -> Rows:
    """Composed images: object masks, patch labels by neighbours, retrieval of the same object."""
    images, masks, table = read_set(work / "judged")
    fit_images, fit_masks, fit_table = read_set(work / "fit")
    bank_images, bank_masks = fit_images[:N_BANK], fit_masks[:N_BANK]
    classes = {name: place for place, name in enumerate(sorted({r["class"] for r in fit_table}), 1)}
    names = list(layers)
    tokens, bank = read(model, images, names), read(model, bank_images, names)
    black = black_features(model, names)
    rng = np.random.default_rng(0)
    drawn = rng.random((N_BANK, bank[names[0]][0, ..., 0].size)).argsort(axis=1)[:, :BANK_PATCHES]
    bank_labels = np.concatenate(
        [
            patch_labels(mask, classes[row["class"]], model.grid).ravel()[patches]
            for mask, row, patches in zip(bank_masks, fit_table, drawn, strict=False)
        ]
    )
    rows: Rows = []
    for layer, fitted in layers.items():
        heads = heads_of(fitted, black[layer])
        guide_direction = fitted.pca.components[fitted.top_component]
        guides = (tokens[layer] - fitted.pca.mean) @ guide_direction
        entries = dict(projected(heads, _taken(bank[layer], drawn)))
        for head, values in projected(heads, tokens[layer]):
            for seed in ("vmax", "guided"):
                for number, mask in enumerate(masks):
                    found = tokencut(values[number], mask.shape, seed=seed, guide=guides[number])
                    overlap = intersection_over_union(found.mask, mask)
                    rows.append(_row(f"saliency, {seed}", layer, head, number, number, overlap))
            pooled = retrieve(values.mean(axis=(1, 2)), [row["stamp"] for row in table])
            for number, precision in enumerate(pooled.average_precision):
                if np.isfinite(precision):
                    stamp = table[number]["stamp"]
                    rows.append(_row("retrieval", layer, head, number, stamp, precision))
            for number in range(N_QUERY_IMAGES):
                label = classes.get(table[number]["class"])
                if label is None:
                    continue
                queries = values[number].reshape(-1, values.shape[-1])
                near = nearest_neighbours(queries, entries[head], K)
                labels = vote(bank_labels, near).reshape(model.grid)
                truth = np.where(masks[number], label, 0)
                found_map = upsample_nearest(labels, truth.shape)
                overlap = np.mean(
                    [intersection_over_union(found_map == one, truth == one) for one in (0, label)]
                )
                rows.append(_row("knn segmentation", layer, head, number, number, float(overlap)))
    return rows


def read_set(folder: Path) -> tuple[list[Image.Image], list[np.ndarray], list[dict[str, str]]]:
    """Return images, masks (height, width) bool, and the table with a coarse class per image."""
    with (folder / "objects.csv").open(newline="") as lines:
        table = [{**row, "class": row["category"].split("/")[0]} for row in csv.DictReader(lines)]
    images, masks = [], []
    for row in table:
        with Image.open(folder / f"images/objects/{row['name']}.jpg") as image:
            images.append(image.convert("RGB"))
        with Image.open(folder / f"masks/{row['name']}.png") as mask:
            masks.append(np.array(mask) > 127)
    return images, masks, table


def patch_labels(mask: np.ndarray, label: int, grid: tuple[int, int]) -> np.ndarray:
    """Return (row, column): the label where most of a patch is object, else 0."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (grid[1], grid[0]), Image.Resampling.BOX
    )
    return np.where(np.array(small) > 127, label, 0)


def _taken(tokens: np.ndarray, patches: np.ndarray) -> np.ndarray:
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    return np.concatenate([some[chosen] for some, chosen in zip(flat, patches, strict=True)])


def _row(
    task: str, layer: str, head: str, image: int, group: object, value: float
) -> dict[str, Any]:
    return {
        "task": task,
        "layer": layer,
        "head": head,
        "image": image,
        "group": str(group),
        "value": value,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
