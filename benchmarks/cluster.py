"""How much faster two workers of a Dask cluster are than one, in one run.

Extracts features of synthetic images at all blocks of a model with one worker process of one
thread, and with two, in turn, several times, because machines are noisy; the median of the ratios
is quoted. Workers are started, and have loaded the model, before the clock runs. Beside it stands
what the machine allows: bare forward passes of the same workers, with nothing read, written or
handed out. Needs two cores that nothing else uses: what others take of them is missing from the
second worker.

    python benchmarks/cluster.py --architecture vit_small_patch16_224 --images 256 --rounds 3
"""

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from distributed import Client, LocalCluster
from overhead import write_inputs

from soapworks.tasks import run as stages
from soapworks.tasks.executors.connection import connected
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings

BLOCK_IMAGES = 16


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=256, help="synthetic images of a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep-features", default="all", choices=["all", "none"])
    parser.add_argument("--folder", type=Path, help="scratch folder; a temporary one by default")
    arguments = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        write_inputs(folder, arguments.architecture, 2)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        bare: dict[int, list[float]] = {1: [], 2: []}
        options = {"threads_per_worker": 1, "dashboard_address": ":0"}
        with (
            LocalCluster(n_workers=1, **options) as one,
            LocalCluster(n_workers=2, **options) as two,
        ):
            clusters = {1: one.scheduler_address, 2: two.scheduler_address}
            for address in clusters.values():
                time_pass(folder, "warm", address, arguments, n_images=4 * BLOCK_IMAGES)
            for number in range(arguments.rounds):
                for n_workers in (1, 2) if number % 2 == 0 else (2, 1):
                    store = f"store{number}-{n_workers}"
                    seconds[n_workers].append(
                        time_pass(folder, store, clusters[n_workers], arguments, arguments.images)
                    )
                    bare[n_workers].append(time_bare(clusters[n_workers], arguments))
                print(
                    f"round {number}: one worker {seconds[1][-1]:.1f} s, two "
                    f"{seconds[2][-1]:.1f} s; bare passes {bare[1][-1]:.1f} s and "
                    f"{bare[2][-1]:.1f} s; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
        ratios = [a / b for a, b in zip(seconds[1], seconds[2], strict=True)]
        most = [a / b for a, b in zip(bare[1], bare[2], strict=True)]
        print(
            f"{arguments.architecture}, {arguments.images} images, {os.cpu_count()} cores, "
            f"--keep-features {arguments.keep_features}: one worker "
            f"{statistics.median(seconds[1]):.1f} s, two {statistics.median(seconds[2]):.1f} s, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); bare "
            f"forward passes {statistics.median(most):.2f} ({min(most):.2f} to {max(most):.2f})"
        )
    finally:
        shutil.rmtree(folder)


def time_pass(
    folder: Path, store: str, address: str, arguments: argparse.Namespace, n_images: int
) -> float:
    """Return the seconds of a pass of the synthetic images; its store is thrown away."""
    n_blocks = len(timm.create_model(arguments.architecture, pretrained=False).blocks)
    request = ScoreRequest(
        checkpoint=str(folder / "model"),
        images=str(folder / "images"),
        settings=ScoreSettings(
            layers=",".join(f"blocks.{k}" for k in range(n_blocks)),
            synthetic_images=n_images,
            block_images=BLOCK_IMAGES,
        ),
        options=RunOptions(
            store=str(folder / store),
            device="cpu",
            dask=address,
            keep_features=arguments.keep_features,
        ),
    )
    (manifest,) = stages.index_stage(request).keys
    (identity,) = stages.identify_stage(request).keys
    request = request.planned(manifest, identity)
    with connected(address):
        if arguments.keep_features == "none":
            stages.moments_stage(request)
            for layer in request.settings.layers.split(","):
                stages.pca_stage(request, layer)
        began = time.perf_counter()
        if arguments.keep_features == "none":
            stages.responses_stage(request, "synthetic")
        else:
            stages.extract_stage(request, "synthetic")
        seconds = time.perf_counter() - began
    shutil.rmtree(folder / store)
    return seconds


def time_bare(address: str, arguments: argparse.Namespace) -> float:
    """Return the seconds of bare forward passes of all images, shared out to the workers."""
    with Client(address, set_as_default=False) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        passes = [
            client.submit(
                bare_passes,
                arguments.architecture,
                arguments.images // len(workers),
                workers=[worker],
                pure=False,
            )
            for worker in workers
        ]
        return max(client.gather(passes))


def bare_passes(architecture: str, n_images: int) -> float:
    """Return the seconds of bare forward passes, on a worker."""
    torch.set_num_threads(1)
    model = timm.create_model(architecture, num_classes=0).eval()
    images = torch.randn(BLOCK_IMAGES, 3, 224, 224)
    with torch.inference_mode():
        model.forward_features(images)
        began = time.perf_counter()
        for _ in range(n_images // BLOCK_IMAGES):
            model.forward_features(images)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
