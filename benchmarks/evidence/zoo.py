"""Measure every head of every layer of the pocket zoo's twins, on scenes.

    python -m benchmarks.evidence.zoo WORK

Scenes, stores and ``pocket_mim.parquet`` and ``pocket_supervised.parquet`` are written into WORK.
Both models were trained on scenes 0 to 23,999 of seed 0; heads are fitted on scenes of seed 1, and
judged on scenes of seed 2.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from benchmarks.evidence.store import read_layers, score
from benchmarks.evidence.tasks import Labelled, measure_correspondence, measure_objects
from soapworks.backbones import build_backbone, open_checkpoint
from soapworks.zoo.scenes import SHAPE_NAMES, TEXTURE_NAMES, Scene, render_scene, write_scenes

TWINS = ("pocket_mim", "pocket_supervised")
N_FIT, N_JUDGED, N_BANK, N_PHOTOGRAPHS, N_PAIRS = 384, 160, 256, 40, 160
LARGE = 288
"""Side of the scenes that crops are taken from, pixels: three crops."""


def main(work: Path, *, n_fit: int = N_FIT, layers: Sequence[str] = ()) -> None:
    """Do what is missing and write the results of both twins."""
    torch.set_num_threads(2)
    write_scenes(work / "scenes", n_fit, seed=1)
    for twin in TWINS:
        start = time.monotonic()
        measure(twin, work, n_fit, layers).to_parquet(work / f"{twin}.parquet")
        print(f"{twin}: {time.monotonic() - start:.0f} s")


def measure(twin: str, work: Path, n_fit: int, layers: Sequence[str]) -> pd.DataFrame:
    """Return the results of one twin: all layers, or those given."""
    options = {"layers": ",".join(layers)} if layers else {}
    score(f"zoo:{twin}", None, work / "scenes", work / "store", synthetic_images=n_fit, **options)
    checkpoint = open_checkpoint(f"zoo:{twin}")
    fitted = read_layers(work / "store", checkpoint.digest)
    model = build_backbone(checkpoint)
    large = [
        Image.fromarray(render_scene(index, size=LARGE, seed=2).image)
        for index in range(N_JUDGED, N_JUDGED + N_PHOTOGRAPHS)
    ]
    rows = measure_correspondence(model, fitted, large, N_PAIRS)
    judged = [labelled(render_scene(index, seed=2)) for index in range(N_JUDGED)]
    bank = [labelled(render_scene(index, seed=1)) for index in range(min(N_BANK, n_fit))]
    rows += measure_objects(model, fitted, judged, bank, N_JUDGED)
    return pd.DataFrame(rows)


def labelled(scene: Scene) -> Labelled:
    """Return a scene with its classes: pairs of a shape and a texture."""
    shape, texture = divmod(scene.label - 1, len(TEXTURE_NAMES))
    instance = f"{SHAPE_NAMES[shape]} {TEXTURE_NAMES[texture]}"
    return Labelled(Image.fromarray(scene.image), scene.mask, instance)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
