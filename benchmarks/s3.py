"""What a store in a bucket costs beside one on the disk, in one run.

The same stored features are scored (moments, components, responses, scores, heads; no forward
passes) from a local store and from a copy of it behind an S3 server on loopback. The two are taken
in turn, several times, because machines are noisy; the medians are quoted. The server is rclone's,
which the development dependencies bring; it shares the machine's cores with the works.

    python benchmarks/s3.py --architecture vit_small_patch16_224 --images 256 --rounds 5
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overhead import write_inputs

from tasks import stages
from tasks.request import ScoreRequest, plan_of
from tasks.settings import RunOptions, ScoreSettings

MADE = ("moments", "pca", "responses", "scores", "heads")
"""Kinds of products that are made in every round."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=256, help="real and synthetic images, each")
    parser.add_argument("--layers", default="blocks.3,blocks.7,blocks.11,norm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="scratch folder; a temporary one by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        local = extracted(folder, arguments)
        with s3_server(folder / "buckets"):
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
    write_inputs(folder, arguments.architecture, arguments.images)
    request = ScoreRequest(
        checkpoint=str(folder / "model"),
        images=str(folder / "images"),
        settings=ScoreSettings(layers=arguments.layers, synthetic_images=arguments.images),
        options=RunOptions(store=str(folder / "store"), device="cpu"),
    )
    (manifest,) = stages.index_stage(request).keys
    (identity,) = stages.identify_stage(request).keys
    request = request.model_copy(update={"manifest": manifest, "identity": identity})
    for domain in ("real", "synthetic"):
        stages.extract_stage(request, domain)
    return request


@contextmanager
def s3_server(folder: Path) -> Iterator[None]:
    """Serve a folder's folders as buckets inside the block, and lead ``s3://`` there."""
    (folder / "works").mkdir(parents=True)
    command = [
        *(str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(folder)),
        *("--addr", "127.0.0.1:0", "--auth-key", "works,works-secret", "--config", ""),
    ]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = None
    while address is None and (line := server.stderr.readline()):
        address = re.search(r"\[(http://127\.0\.0\.1:\d+)/\]", line)
    assert address is not None, "rclone's S3 server did not start"
    os.environ |= {
        "AWS_ENDPOINT_URL": address[1],
        "AWS_ACCESS_KEY_ID": "works",
        "AWS_SECRET_ACCESS_KEY": "works-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        yield
    finally:
        server.kill()
        server.wait()


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
