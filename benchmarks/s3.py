"""What a store in a bucket costs beside one on the disk, in one run.

The same stored features are scored (moments, components, responses, scores, heads; no forward
passes) from a local store and from a copy of it behind an S3 server on loopback. The two are taken
in turn, several times, because machines are noisy; the medians are quoted. The server is rclone's,
which the development dependencies bring; it shares the machine's cores with the works, and is kept
from reading every object to digest it whenever it is asked for. The model has one block: features
of one layer are as large as any other's.

    PYTHONPATH=. python benchmarks/s3.py --architecture vit_base_patch16_224 --images 512
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from overhead import write_inputs

from soapworks.tasks import run as stages
from soapworks.tasks.plan.request import ScoreRequest, plan_of
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.s3_server import running_s3_server

MADE = ("moments", "pca", "responses", "scores", "heads")
"""Kinds of products that are made in every round."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=512, help="real and synthetic images, each")
    parser.add_argument("--layers", default="blocks.0,norm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="scratch folder; a temporary one by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        local = extracted(folder, arguments)
        with running_s3_server(folder / "s3", "--etag-hash=") as server:
            (server.data / "works").mkdir()
            os.environ |= server.environment
            there = in_bucket(local)
            seconds: dict[str, list[float]] = {"local": [], "s3": []}
            for number in range(arguments.rounds):
                turn = [("local", local), ("s3", there)]
                for name, request in turn if number % 2 else reversed(turn):
                    seconds[name].append(time_scoring(request))
                told = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
                print(f"round {number}: {told}", flush=True)
        ratios = [s / d for s, d in zip(seconds["s3"], seconds["local"], strict=True)]
        print(
            f"{arguments.architecture}, {arguments.layers}, {arguments.images} real + "
            f"{arguments.images} synthetic: local {statistics.median(seconds['local']):.2f} s, s3 "
            f"{statistics.median(seconds['s3']):.2f} s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    finally:
        shutil.rmtree(folder)


def extracted(folder: Path, arguments: argparse.Namespace) -> ScoreRequest:
    """Return a request whose features are in a local store."""
    write_inputs(folder, arguments.architecture, arguments.images, depth=1)
    request = ScoreRequest(
        checkpoint=str(folder / "model"),
        images=str(folder / "images"),
        settings=ScoreSettings(layers=arguments.layers, synthetic_images=arguments.images),
        options=RunOptions(store=str(folder / "store"), device="cpu"),
    )
    (manifest,) = stages.index_stage(request).keys
    (identity,) = stages.identify_stage(request).keys
    request = request.planned(manifest, identity)
    for domain in ("real", "synthetic"):
        stages.extract_stage(request, domain)
    return request


def in_bucket(request: ScoreRequest) -> ScoreRequest:
    """Return the same request with a copy of its store in a bucket."""
    import fsspec

    fsspec.filesystem("s3").put(request.options.store, "works/store", recursive=True)
    options = request.options.model_copy(update={"store": "s3://works/store"})
    return request.model_copy(update={"options": options})


def time_scoring(request: ScoreRequest) -> float:
    """Return the seconds from stored features to heads; what was made before is deleted first."""
    store = request.store()
    for kind in reversed(MADE):
        for product in store.products(kind):
            store.delete(product)
    layers = [layer.subject.layer for layer in plan_of(request).layers]
    began = time.perf_counter()
    for layer in layers:
        for stage in (stages.pca_stage, stages.score_stage, stages.head_stage):
            stage(request, layer)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
