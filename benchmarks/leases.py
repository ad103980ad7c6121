"""What leases, checksums and block records cost an extraction, in one run.

The same images pass through the same network, and the same features are written in the same
shards: (a) to plain zarr arrays, (b) as products, with leases and their heartbeat, digests of
every file, a record per block, the completion record, and syncs. The two are taken in turn,
several times, because machines are noisy; the medians are quoted, of wall time and of the process's
CPU time, which other processes disturb less. The images lie in memory.

    python benchmarks/leases.py --architecture vit_small_patch16_224 --images 128 --rounds 7
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import zarr
from safetensors.torch import save_file

from soapworks.backbones import Backbone, build_backbone, open_checkpoint
from soapworks.storage_schemas.layout.arrays import create_array
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe, Subject, SyntheticInput
from soapworks.storage_schemas.store import Attempt, Store
from soapworks.tasks.passes.forward import forward_blocks
from soapworks.tasks.passes.loading import BatchSize
from soapworks.tasks.passes.local import LocalNetwork
from soapworks.tasks.stages.extract import WRITERS, extract


@dataclass(frozen=True)
class Prepared:
    """Images that lie in memory."""

    images: torch.Tensor

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.images)

    def batches(self, spans: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
        """Yield the spans' images."""
        for start, stop in spans:
            yield self.images[start:stop]

    def name(self, index: int) -> str:
        """Return the image's number."""
        return f"image {index}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--block", type=int, default=64, help="images in a block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="threads of the forward pass")
    parser.add_argument("--folder", type=Path, help="scratch folder; a temporary one by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        backbone, recipes = prepare(folder, arguments)
        source = Prepared(torch.randn(arguments.images, 3, *backbone.image_size))
        backbone.features(source.images[: arguments.batch], [backbone.known_layers[-1]])
        plain, works, published = [], [], []
        cpu: dict[str, list[float]] = {"plain": [], "works": []}
        for number in range(arguments.rounds):
            for what in ("plain", "works") if number % 2 else ("works", "plain"):
                place = folder / f"{what}{number}"
                spent = time.process_time()
                if what == "plain":
                    plain.append(time_plain(place, backbone, recipes, source, arguments.batch))
                else:
                    seconds, publishing = time_works(
                        place, backbone, recipes, source, arguments.batch
                    )
                    works.append(seconds)
                    published.append(publishing)
                cpu[what].append(time.process_time() - spent)
                shutil.rmtree(place)
            print(f"round {number}: plain {plain[-1]:.2f} s, works {works[-1]:.2f} s", flush=True)
        ratios = [w / p for w, p in zip(works, plain, strict=True)]
        of_cpu = statistics.median(w / p for w, p in zip(cpu["works"], cpu["plain"], strict=True))
        print(
            f"{arguments.architecture}, {len(recipes)} layers, {arguments.images} images, "
            f"{torch.get_num_threads()} threads: plain {statistics.median(plain):.2f} s, works "
            f"{statistics.median(works):.2f} s (of these publishing "
            f"{statistics.median(published):.2f} s), ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}), of CPU time {of_cpu:.3f}"
        )
    finally:
        shutil.rmtree(folder)


def prepare(folder: Path, arguments: argparse.Namespace) -> tuple[Backbone, list[FeaturesRecipe]]:
    """Return a network with random weights, and the recipes of all its blocks."""
    model = timm.create_model(arguments.architecture, num_classes=0)
    save_file(model.state_dict(), folder / "model.safetensors")
    checkpoint = open_checkpoint(
        str(folder / "model.safetensors"), architecture=arguments.architecture
    )
    backbone = build_backbone(checkpoint)
    wanted = SyntheticInput(
        spec="authors", spec_version=1, seed=0, start=0, n_images=arguments.images
    )
    return backbone, [
        FeaturesRecipe(
            subject=Subject(
                architecture=arguments.architecture, weights=checkpoint.digest, layer=layer
            ),
            input=wanted,
            image_size=backbone.image_size,
            mean=backbone.mean,
            std=backbone.std,
            precision="float32",
            dtype="float16",
            block_images=arguments.block,
        )
        for layer in backbone.resolve_layers("all")
        if layer.startswith("blocks.")
    ]


def time_plain(
    place: Path,
    backbone: Backbone,
    recipes: Sequence[FeaturesRecipe],
    source: Prepared,
    batch: int,
) -> float:
    """Return the seconds of the forward passes and of writing plain zarr arrays."""
    recipe = recipes[0]
    layers = [recipe.subject.layer for recipe in recipes]
    began = time.perf_counter()
    arrays = {
        layer: create_array(
            zarr.open_group(place / layer, mode="w", zarr_format=3),
            "features",
            "features",
            (source.n_images, *backbone.grid, backbone.n_channels(layer)),
            recipe.dtype,
            block_images=recipe.block_images,
        )
        for layer in layers
    }

    def write(layer: str, number: int, values: torch.Tensor) -> None:
        start = number * recipe.block_images
        arrays[layer][start : start + len(values)] = values.numpy()

    todo = dict.fromkeys(range(recipe.n_blocks), layers)
    written: list[Future[None]] = []
    with ThreadPoolExecutor(WRITERS) as pool:
        by_layer = dict(zip(layers, recipes, strict=True))
        for number, features in forward_blocks(backbone, todo, source, by_layer, BatchSize(batch)):
            for earlier in written:
                earlier.result()
            written = [pool.submit(write, layer, number, v) for layer, v in features.items()]
        for last in written:
            last.result()
    return time.perf_counter() - began


def time_works(
    place: Path,
    backbone: Backbone,
    recipes: Sequence[FeaturesRecipe],
    source: Prepared,
    batch: int,
) -> tuple[float, float]:
    """Return the seconds of an extraction, and how many of them publishing took."""
    publishing, original = 0.0, Attempt.publish

    def publish(attempt: Attempt, facts: dict[str, object]) -> object:
        nonlocal publishing
        began = time.perf_counter()
        try:
            return original(attempt, facts)
        finally:
            publishing += time.perf_counter() - began

    Attempt.publish = publish  # type: ignore[method-assign,assignment]
    try:
        began = time.perf_counter()
        network = LocalNetwork(backbone, lambda recipe: source, BatchSize(batch), 1 << 30, 1)
        extract(Store(place), network, recipes, lambda n: None)
        return time.perf_counter() - began, publishing
    finally:
        Attempt.publish = original  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
