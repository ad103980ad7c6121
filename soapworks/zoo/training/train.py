"""Train the pocket zoo.

Run ``python -m soapworks.zoo.training.train {mim,supervised} --out FOLDER``.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from soapworks.zoo.training.architecture import build_encoder, publish
from soapworks.zoo.training.masked import MaskedModel
from soapworks.zoo.training.scene_cache import SceneArrays, load_scenes
from soapworks.zoo.training.supervised import SupervisedModel

OBJECTIVES = {"mim": MaskedModel, "supervised": SupervisedModel}
HELD_OUT_SEED_OFFSET = 1_000_000
"""Added to the seed of the training scenes, to name the scenes that are never trained on."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    n_steps: int = 3000
    """Updates."""
    batch_size: int = 64
    """Scenes per update."""
    n_warmup: int = 150
    """Updates over which the learning rate rises linearly."""
    learning_rate: float = 1e-3
    """Peak."""
    decay_share: float = 1.0
    """Last share of the updates after warm-up over which the rate falls along half a cosine to 0;
    before them it stays at its peak, and a run may still be made longer or shorter."""
    weight_decay: float = 0.05
    """AdamW's, on matrices alone."""
    seed: int = 0
    """Of weights, order of scenes, mirroring and masks."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.n_warmup:
            return self.learning_rate * (step + 1) / self.n_warmup
        n_falling = max(1.0, self.decay_share * (self.n_steps - self.n_warmup))
        done = max(0.0, 1 - (self.n_steps - step) / n_falling)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def continues(self, earlier: "Schedule", n_done: int) -> bool:
        """Return whether `n_done` updates of another schedule equal this one's.

        Two schedules that differ in length alone agree until the first of them lets the rate fall.
        """
        same = replace(earlier, n_steps=self.n_steps, decay_share=self.decay_share) == self
        return same and all(self.rate(i) == earlier.rate(i) for i in range(n_done))


class Trainer:
    """A model in training: steps, checkpoints and history.

    Parameters
    ----------
    objective
        "mim" or "supervised".
    schedule
        See `Schedule`.
    scenes
        Training scenes.
    model_args
        Departures from the zoo's architecture; for tests.
    """

    def __init__(
        self,
        objective: str,
        schedule: Schedule,
        scenes: SceneArrays,
        *,
        model_args: dict[str, int] | None = None,
    ) -> None:
        torch.manual_seed(schedule.seed)
        self.schedule, self.scenes = schedule, scenes
        self.model: Any = OBJECTIVES[objective](build_encoder(model_args))
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                # Torch's fused attention spent 45 % of a step here; plain products a tenth.
                module.fused_attn = False
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim in (2, 4)]},
            {"params": [p for p in trained if p.ndim not in (2, 4)], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            betas=(0.9, 0.95),
            weight_decay=schedule.weight_decay,
        )
        self.n_done = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def step(self) -> float:
        """Make one update in bfloat16 with float32 weights; return its loss."""
        started = time.perf_counter()
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(self.n_done)
        # The step's own generator: a resumed run draws what an undisturbed one would.
        rng = np.random.default_rng([schedule.seed, self.n_done])
        picked = np.sort(rng.choice(len(self.scenes.images), schedule.batch_size, replace=False))
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model.loss(self.scenes, picked, rng)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.n_done += 1
        self.seconds += time.perf_counter() - started
        return float(loss.detach())

    def evaluate(self, held_out: SceneArrays) -> dict[str, float]:
        """Measure the model on scenes it has not seen."""
        self.model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.evaluate(held_out)

    def save(self, path: Path) -> None:
        """Write all that a later run needs to continue."""
        state = {
            "schedule": asdict(self.schedule),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_done": self.n_done,
            "seconds": self.seconds,
            "history": self.history,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint; return whether there was one."""
        if not path.is_file():
            return False
        state = torch.load(path, weights_only=True)
        if not self.schedule.continues(Schedule(**state["schedule"]), state["n_done"]):
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_done, self.seconds = state["n_done"], state["seconds"]
        self.history = state["history"]
        return True


@click.command()
@click.argument("objective", type=click.Choice(sorted(OBJECTIVES)))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to publish in.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("build/zoo"),
    show_default=True,
    help="Rendered scenes and the checkpoint that an interrupted run resumes from.",
)
@click.option("--steps", type=int, default=3000, show_default=True)
@click.option(
    "--stop-after", type=int, help="Publish after this many steps, wherever the schedule is then."
)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option(
    "--decay-share",
    type=float,
    default=1.0,
    show_default=True,
    help="Last share of the steps over which the learning rate falls to 0.",
)
@click.option("--weight-decay", type=float, default=0.05, show_default=True)
@click.option("--scenes", type=int, default=24_000, show_default=True, help="Scenes to train on.")
@click.option("--held-out", type=int, default=512, show_default=True, help="Scenes to measure on.")
@click.option("--every", type=int, default=250, show_default=True, help="Steps between measures.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True, help="Of torch, on the CPU.")
def main(
    objective: str,
    out: Path,
    cache: Path,
    steps: int,
    stop_after: int | None,
    batch_size: int,
    learning_rate: float,
    decay_share: float,
    weight_decay: float,
    scenes: int,
    held_out: int,
    every: int,
    seed: int,
    threads: int,
) -> None:
    """Train one of the pocket zoo's two models and publish it in a folder."""
    torch.set_num_threads(threads)
    schedule = Schedule(
        n_steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        decay_share=decay_share,
        weight_decay=weight_decay,
        seed=seed,
    )
    training = load_scenes(cache, scenes, seed=seed, n_workers=threads)
    unseen = load_scenes(cache, held_out, seed=seed + HELD_OUT_SEED_OFFSET, n_workers=threads)
    trainer = Trainer(objective, schedule, training)
    checkpoint = cache / f"{objective}-seed{seed}.pt"
    trainer.resume(checkpoint)
    losses: list[float] = []
    last = min(steps, stop_after or steps)
    while trainer.n_done < last:
        losses.append(trainer.step())
        if trainer.n_done % every and trainer.n_done != last:
            continue
        measured = {"step": trainer.n_done, "loss": float(np.mean(losses))}
        measured |= trainer.evaluate(unseen) | {"seconds": round(trainer.seconds, 1)}
        losses.clear()
        trainer.history.append(measured)
        click.echo(json.dumps(measured))
        trainer.save(checkpoint)
        publish(trainer.model.encoder, out, f"soapworks_pocket_{objective}")


if __name__ == "__main__":
    main()
