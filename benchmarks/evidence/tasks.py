"""Measure every head of every layer in every task, image by image, on given images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evidence.heads import heads_of, projected
from benchmarks.evidence.store import Fitted
from soapworks.backbones import Backbone
from soapworks.evaluation import (
    correspondence,
    draw_crop_pair,
    intersection_over_union,
    tokencut,
)
from soapworks.evaluation.neighbours import nearest_neighbours, retrieve, vote
from soapworks.evaluation.saliency import upsample_nearest
from soapworks.images.preprocessing import preprocessing_for

BANK_PATCHES = 64
K = 20
BATCH = 8

Rows = list[dict[str, Any]]
Layers = dict[str, Fitted]


@dataclass(frozen=True)
class Labelled:
    """An image, what is where in it, and what it is an image of."""

    image: Image.Image
    labels: np.ndarray
    """(height, width) integers; 0 is the background."""
    instance: str
    """Images of one instance are the right answers of retrieval, and drawn together."""


def measure_correspondence(
    model: Backbone, layers: Layers, photographs: Sequence[Image.Image], n_pairs: int
) -> Rows:
    """Shifted crops of photographs: does a token find its content?"""
    rng = np.random.default_rng(0)
    side = model.image_size[0]
    patch = side // model.grid[0]
    pairs, crops = [], []
    for number in range(n_pairs):
        place = number % len(photographs)
        image = photographs[place]
        # Shorter side of one and a half to three crops: content at several scales.
        scale = side * rng.uniform(1.5, 3) / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        pair = draw_crop_pair((image.height, image.width), (side, side), (patch, patch), rng)
        for top, left in (pair.first, pair.second):
            crops.append(image.crop((left, top, left + side, top + side)))
        pairs.append((place, pair.offset))
    tokens, black = read(model, crops, list(layers)), black_features(model, list(layers))
    rows: Rows = []
    for layer, fitted in layers.items():
        for head, values in projected(heads_of(fitted, black[layer]), tokens[layer]):
            for number, (place, offset) in enumerate(pairs):
                found = correspondence(values[2 * number], values[2 * number + 1], offset)
                for task, value in (
                    ("correspondence", found.pck),
                    ("same place", found.same_place),
                ):
                    rows.append(_row(task, layer, head, number, place, value))
    return rows


def measure_objects(
    model: Backbone,
    layers: Layers,
    judged: Sequence[Labelled],
    bank: Sequence[Labelled],
    n_queries: int,
) -> Rows:
    """Object masks, patch labels by neighbours among the bank's, retrieval of the same instance.

    Heads were fitted on the bank's images, never on those that are judged.
    """
    names = list(layers)
    tokens = read(model, [one.image for one in judged], names)
    bank_tokens = read(model, [one.image for one in bank], names)
    black = black_features(model, names)
    n_patches = model.grid[0] * model.grid[1]
    drawn = np.random.default_rng(0).random((len(bank), n_patches)).argsort(axis=1)
    drawn = drawn[:, :BANK_PATCHES]
    bank_labels = np.concatenate(
        [
            patch_labels(one.labels, model.grid).ravel()[patches]
            for one, patches in zip(bank, drawn, strict=True)
        ]
    )
    known = {label for one in bank for label in np.unique(one.labels)}
    instances = [one.instance for one in judged]
    rows: Rows = []
    for layer, fitted in layers.items():
        heads = heads_of(fitted, black[layer])
        guide_direction = fitted.pca.components[fitted.top_component]
        guides = (tokens[layer] - fitted.pca.mean) @ guide_direction
        entries = dict(projected(heads, _taken(bank_tokens[layer], drawn)))
        for head, values in projected(heads, tokens[layer]):
            for seed in ("vmax", "guided"):
                for number, one in enumerate(judged):
                    shape = one.labels.shape
                    found = tokencut(values[number], shape, seed=seed, guide=guides[number])
                    overlap = intersection_over_union(found.mask, one.labels > 0)
                    rows.append(_row(f"saliency, {seed}", layer, head, number, number, overlap))
            precisions = retrieve(values.mean(axis=(1, 2)), instances).average_precision
            for number, precision in enumerate(precisions):
                if np.isfinite(precision):
                    rows.append(
                        _row("retrieval", layer, head, number, instances[number], precision)
                    )
            for number, one in enumerate(judged[:n_queries]):
                classes = np.unique(one.labels)
                if not known.issuperset(classes):
                    continue
                queries = values[number].reshape(-1, values.shape[-1])
                near = nearest_neighbours(queries, entries[head], K)
                labels = upsample_nearest(
                    vote(bank_labels, near).reshape(model.grid), one.labels.shape
                )
                overlaps = [
                    intersection_over_union(labels == label, one.labels == label)
                    for label in classes
                ]
                rows.append(
                    _row("knn segmentation", layer, head, number, number, float(np.mean(overlaps)))
                )
    return rows


def read(model: Backbone, images: Sequence[Image.Image], layers: list[str]) -> dict[str, Any]:
    """Return layer -> (image, row, column, channel) float32, all layers in one pass."""
    side = model.image_size[0]
    apply = preprocessing_for("squash", size=side, mean=model.mean, std=model.std).apply
    parts: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    for start in range(0, len(images), BATCH):
        batch = np.stack([apply(image) for image in images[start : start + BATCH]])
        for layer, values in model.features(batch, layers).items():
            parts[layer].append(values.numpy())
    return {layer: np.concatenate(batches) for layer, batches in parts.items()}


def black_features(model: Backbone, layers: list[str]) -> dict[str, np.ndarray]:
    """Return layer -> (row, column, channel) of a black image."""
    black = Image.new("RGB", (model.image_size[1], model.image_size[0]))
    return {layer: values[0] for layer, values in read(model, [black], layers).items()}


def patch_labels(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return (row, column): the label that covers most of each patch."""
    classes = np.unique(labels)
    shares = [
        np.array(
            Image.fromarray((labels == label).astype(np.float32)).resize(
                (grid[1], grid[0]), Image.Resampling.BOX
            )
        )
        for label in classes
    ]
    return classes[np.argmax(shares, axis=0)]


def _taken(tokens: np.ndarray, patches: np.ndarray) -> np.ndarray:
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    return np.concatenate([image[chosen] for image, chosen in zip(flat, patches, strict=True)])


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
