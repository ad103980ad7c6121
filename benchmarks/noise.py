"""Does making a synthetic image show beside the forward pass that follows it?

Prints, from one run, the median time per image of `soapworks.synthesize` and of the forward pass of
a ViT-B/16 with random weights, in float32 and bfloat16, and their ratios. The two alternate, so
that other load on the machine falls on both.

    python benchmarks/noise.py [--size 224] [--n 64] [--batch 16] [--threads T] [--device cuda]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import timm
import torch

from soapworks.synthesis.images import SPECS, renormalise, synthesize

ARCHITECTURE = "vit_base_patch16_224"
PRECISIONS = (torch.float32, torch.bfloat16)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--n", type=int, default=64, help="number of images")
    parser.add_argument("--batch", type=int, default=16, help="images per batch")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--device", default="cpu", help="where both run")
    parser.add_argument("--spec", choices=list(SPECS), default="authors")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    models = {
        precision: timm.create_model(ARCHITECTURE, img_size=options.size)
        .eval()
        .to(device, precision)
        for precision in PRECISIONS
    }

    def make(first: int) -> torch.Tensor:
        indices = range(first, first + options.batch)
        images = synthesize(indices, options.size, spec=options.spec, device=device)
        return renormalise(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    times: dict[object, list[float]] = {"noise": [], **{p: [] for p in PRECISIONS}}
    with torch.inference_mode():
        # One round to warm up: caches, oneDNN's choices, pages.
        for first in range(-options.batch, options.n, options.batch):
            start = max(first, 0)
            images, noise = timed(partial(make, start), device)
            spent: dict[object, float] = {"noise": noise}
            for precision, net in models.items():
                batch = images.to(precision)
                spent[precision] = timed(partial(net, batch), device)[1]
            if first >= 0:
                for name, seconds in spent.items():
                    times[name].append(seconds / options.batch)

    median = {name: statistics.median(found) for name, found in times.items()}
    threads = torch.get_num_threads() if device.type == "cpu" else "-"
    print(
        f"{options.size} px, {len(times['noise'])} batches of {options.batch}, {device}, "
        f"{threads} torch threads, NumPy {np.__version__}, torch {torch.__version__}"
    )
    print(f"synthesize ({options.spec}): {1e3 * median['noise']:8.2f} ms per image")
    for precision in PRECISIONS:
        name = str(precision).removeprefix("torch.")
        ratio = median["noise"] / median[precision]
        print(
            f"{ARCHITECTURE} {name:>8}: {1e3 * median[precision]:8.2f} ms per image; "
            f"noise / forward = {ratio:.3f}"
        )


def timed(work: Callable[[], torch.Tensor], device: torch.device) -> tuple[torch.Tensor, float]:
    """Return what the work gives and the seconds it took."""
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
