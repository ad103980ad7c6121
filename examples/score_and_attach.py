"""Score a model's last layer, then run the model with its SOAP head attached.

    python examples/score_and_attach.py FOLDER

writes procedural scenes and a store into FOLDER. Replace ``MODEL`` by a timm name or a weights
file, and ``images`` by a folder of your own.
"""

import subprocess
import sys
from pathlib import Path

import torch

import soapworks
from soapworks.backbones import build_backbone, open_checkpoint

MODEL = "zoo:pocket_mim"


def run(*words: str) -> None:
    """Run a soapworks command; it prints its own progress."""
    subprocess.run([sys.executable, "-m", "soapworks.flows.cli", *words], check=True)


def main(folder: Path) -> None:
    """Score, load the head, attach it, and compare the tokens with and without it."""
    images, store = folder / "scenes", folder / "store"
    run("scenes", str(images), "--n", "96")
    run(
        *("score", MODEL, "--images", str(images), "--store", str(store)),
        *("--layers", "norm", "--synthetic-images", "96"),
    )
    (path,) = (store / "heads").iterdir()
    head = soapworks.SoapHead.load(path)

    model = build_backbone(open_checkpoint(MODEL), device="cpu").model
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model.forward_features(pixels)
        soapworks.attach(model, head)
        cleaned = model.forward_features(pixels)
    n_prefix = model.num_prefix_tokens
    torch.testing.assert_close(cleaned[:, :n_prefix], plain[:, :n_prefix])
    torch.testing.assert_close(cleaned[:, n_prefix:], head(plain[:, n_prefix:]))
    left = cleaned[:, n_prefix:].var() / plain[:, n_prefix:].var()
    print(f"{path.name}: {left:.1%} of the patch tokens' variance is left")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
