"""Watch a training run: checkpoints are scored as they are saved, and make a curve.

    python examples/watch_training.py FOLDER

saves two checkpoints of a small transformer, as a training loop would, and looks at the folder
once after each. A real run leaves ``soapworks watch`` running beside the training instead.
"""

import subprocess
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

ARCHITECTURE = "vit_tiny_patch16_224"


def run(*words: str) -> None:
    """Run a soapworks command; it prints its own progress."""
    subprocess.run([sys.executable, "-m", "soapworks.flows.cli", *words], check=True)


def main(folder: Path) -> None:
    """Save and score two checkpoints; print where the curve is."""
    images, checkpoints, store = folder / "scenes", folder / "checkpoints", folder / "store"
    checkpoints.mkdir(parents=True, exist_ok=True)
    run("scenes", str(images), "--n", "24")
    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, num_classes=0)
    for step in (0, 1000):
        for parameter in model.parameters():  # stands for an update of the weights
            parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
        path = checkpoints / f"step_{step}.safetensors"
        save_file(model.state_dict(), path)
        path.with_name(path.name + ".done").touch()  # saved whole: no need to wait
        run(
            *("watch", str(checkpoints), "--images", str(images), "--store", str(store)),
            *("--architecture", ARCHITECTURE, "--layers", "norm", "--once"),
            *("--synthetic-images", "24", "--max-images", "24"),
        )
    for table in sorted((store / "watch").rglob("*.csv")):
        print(table)
        print(table.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
