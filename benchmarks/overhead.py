"""What scoring costs beside the bare forward passes, in one run.

Times as many real and synthetic images through (a) a bare timm loop and (b) all stages of
soapworks at all blocks, features stored, and prints the ratio. The bare loop has its images in
memory already; reading, noise, storing, PCA, responses, scores and heads are the works' side.
The two are taken in turn, several times, because machines are noisy; the medians are quoted.

    python benchmarks/overhead.py --architecture vit_small_patch16_224 --images 128 --rounds 3
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from soapworks.tasks import run as stages
from soapworks.tasks.events import Event, StageFinished, listening
from soapworks.tasks.plan.request import ScoreRequest, plan_of
from soapworks.tasks.settings import RunOptions, ScoreSettings


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=128, help="real and synthetic images, each")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="scratch folder; a temporary one by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        model = write_inputs(folder, arguments.architecture, arguments.images)
        bare, works = [], []
        for number in range(arguments.rounds):
            bare.append(time_bare(model, 2 * arguments.images, arguments.batch))
            works.append(time_works(folder, f"store{number}", arguments))
            print(f"round {number}: bare {bare[-1]:.1f} s, works {works[-1]:.1f} s", flush=True)
            shutil.rmtree(folder / f"store{number}")
        ratios = [w / b for w, b in zip(works, bare, strict=True)]
        print(
            f"{arguments.architecture}, {arguments.images} real + {arguments.images} synthetic, "
            f"{torch.get_num_threads()} threads: bare {statistics.median(bare):.1f} s, works "
            f"{statistics.median(works):.1f} s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    finally:
        shutil.rmtree(folder)


def write_inputs(folder: Path, architecture: str, n: int, **model_args: int) -> torch.nn.Module:
    """Write a checkpoint with random weights and n photographs; return the model."""
    model = timm.create_model(architecture, num_classes=0, **model_args).eval()
    (folder / "model").mkdir()
    save_file(model.state_dict(), folder / "model" / "model.safetensors")
    config = {
        "architecture": architecture,
        "model_args": model_args,
        "pretrained_cfg": {"input_size": [3, 224, 224]},
    }
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "images").mkdir()
    for number in range(n):
        coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photograph = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        photograph.save(folder / "images" / f"{number:05d}.jpg", quality=90)
    return model


def time_bare(model: torch.nn.Module, n: int, batch: int) -> float:
    """Return the seconds of a bare forward loop."""
    images = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        model.forward_features(images)
        began = time.perf_counter()
        for _ in range(n // batch):
            model.forward_features(images)
        return time.perf_counter() - began


def time_works(folder: Path, store: str, arguments: argparse.Namespace) -> float:
    """Return the seconds of all stages, from photographs to heads."""
    n_blocks = len(timm.create_model(arguments.architecture, pretrained=False).blocks)
    request = ScoreRequest(
        checkpoint=str(folder / "model"),
        images=str(folder / "images"),
        settings=ScoreSettings(
            layers=",".join(f"blocks.{k}" for k in range(n_blocks)),
            synthetic_images=arguments.images,
        ),
        options=RunOptions(store=str(folder / store), device="cpu", batch_size=arguments.batch),
    )
    seconds: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, StageFinished):
            seconds[event.stage] = seconds.get(event.stage, 0) + event.seconds

    with listening(listen):
        began = time.perf_counter()
        (manifest,) = stages.index_stage(request).keys
        (identity,) = stages.identify_stage(request).keys
        request = request.planned(manifest, identity)
        for domain in ("real", "synthetic"):
            stages.extract_stage(request, domain)
        for layer in plan_of(request).layers:
            for stage in (stages.pca_stage, stages.score_stage, stages.head_stage):
                stage(request, layer.subject.layer)
        total = time.perf_counter() - began
    shown = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    print(f"  stages, seconds: {shown}", file=sys.stderr)
    return total


if __name__ == "__main__":
    main()
