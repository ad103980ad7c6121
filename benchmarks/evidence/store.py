"""Score the model with the works, and read back what heads are made from."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soapworks import Pca, SoapHead
from soapworks.storage_schemas.layout.arrays import open_array, read_arrays
from soapworks.storage_schemas.store import Product, Store


@dataclass(frozen=True)
class Fitted:
    """What the store has of one layer."""

    layer: str
    pca: Pca
    soap_2: SoapHead
    soap_threshold: SoapHead
    n_invariant: int
    """Components above .75."""
    top_component: int
    """Component of highest SI: the guide of a guided seed."""
    position_means: np.ndarray
    """(row, column, channel) float64: mean token of each position over the real images."""

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of all real tokens, (channel, channel)."""
        return (self.pca.components.T * self.pca.explained_variance) @ self.pca.components


def score(
    checkpoint: str, architecture: str | None, images: Path, store: Path, **options: object
) -> None:
    """Run ``soapworks score`` with both choices of mu; the second costs no pass."""
    words = [sys.executable, "-m", "soapworks.flows.cli", "score", checkpoint]
    words += ["--images", str(images), "--store", str(store)]
    if architecture:
        words += ["--architecture", architecture]
    for name, value in {"layers": "all", **options}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    for mu in ("2", "threshold"):
        subprocess.run([*words, "--mu", mu], check=True)


def read_layers(url: Path, weights: str) -> dict[str, Fitted]:
    """Return layer -> what the store has, for the one model with these weights (digest)."""
    store = Store(url)
    found: dict[str, dict[str, Product]] = {}
    for kind in ("pca", "heads"):
        for product in store.products(kind):
            subject = product.recipe["subject"]
            if subject["weights"] == weights:
                name = f"{kind}-{product.recipe['mu']}" if kind == "heads" else kind
                found.setdefault(subject["layer"], {})[name] = product
    means = _position_means(store, weights)
    layers = {}
    for layer, products in found.items():
        arrays = read_arrays(products["pca"].open_zarr(), "pca")
        heads = {name: p for name, p in products.items() if name.startswith("heads")}
        threshold = heads["heads-threshold"]
        (two,) = (p for name, p in heads.items() if name != "heads-threshold")
        layers[layer] = Fitted(
            layer=layer,
            pca=Pca(
                mean=arrays["mean"],
                components=arrays["components"],
                explained_variance=arrays["explained_variance"],
                count=int(arrays["count"]),
            ),
            soap_2=SoapHead.load(two.location.url),
            soap_threshold=SoapHead.load(threshold.location.url),
            n_invariant=int(two.facts["n_invariant"]),
            top_component=int(two.facts["top_component"]),
            position_means=means[layer],
        )
    return layers


def _position_means(store: Store, weights: str) -> dict[str, np.ndarray]:
    sums: dict[str, np.ndarray] = {}
    n_images: dict[str, int] = {}
    for product in store.products("features"):
        recipe = product.recipe
        if recipe["subject"]["weights"] != weights or recipe["input"]["domain"] != "real":
            continue
        layer, array = (
            recipe["subject"]["layer"],
            open_array(product.open_zarr(), "features", "features"),
        )
        for start in range(0, array.shape[0], recipe["block_images"]):
            block = array[start : start + recipe["block_images"]].astype(np.float64)
            sums[layer] = sums.get(layer, 0) + block.sum(axis=0)
            n_images[layer] = n_images.get(layer, 0) + len(block)
    return {layer: total / n_images[layer] for layer, total in sums.items()}
