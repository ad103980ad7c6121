"""Measure every head of every layer of the real model.

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

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.evidence.images import read_material, write_set
from benchmarks.evidence.store import read_layers, score
from benchmarks.evidence.tasks import Labelled, measure_correspondence, measure_objects
from soapworks.backbones import Backbone, build_backbone, open_checkpoint

ARCHITECTURE = "vit_small_patch14_dinov2.lvd142m"
SIZE = 224
N_FIT_BACKGROUNDS, N_FIT_OBJECTS = 192, 192
N_JUDGED = 120
N_PAIRS = 130
N_BANK = 96
N_QUERY_IMAGES = 60


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
    bank, judged = read_sets(work / "fit", work / "judged")
    start = time.monotonic()
    rows = measure_correspondence(model, layers, material.half(1).photographs, N_PAIRS)
    print(f"correspondence: {time.monotonic() - start:.0f} s")
    rows += measure_objects(model, layers, judged, bank[:N_BANK], N_QUERY_IMAGES)
    print(f"all: {time.monotonic() - start:.0f} s")
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


def read_sets(fit: Path, judged: Path) -> tuple[list[Labelled], list[Labelled]]:
    """Return the images with objects of both sets; a label is a class that the first set has.

    Objects of other classes have a label of their own that no image of the first set has.
    """
    tables = [_read_table(folder) for folder in (fit, judged)]
    classes = {name: place for place, name in enumerate(sorted({r["class"] for r in tables[0]}), 1)}
    found = []
    for folder, table in zip((fit, judged), tables, strict=True):
        images = []
        for row in table:
            with Image.open(folder / f"images/objects/{row['name']}.jpg") as image:
                picture = image.convert("RGB")
            with Image.open(folder / f"masks/{row['name']}.png") as mask:
                inside = np.array(mask) > 127
            label = classes.get(row["class"], len(classes) + 1)
            images.append(Labelled(picture, np.where(inside, label, 0), row["stamp"]))
        found.append(images)
    return found[0], found[1]


def _read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "objects.csv").open(newline="") as lines:
        return [{**row, "class": row["category"].split("/")[0]} for row in csv.DictReader(lines)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
