"""Read a checkpoint's training run and step from its name.

``step_1000.safetensors``, ``mae/checkpoint-1000/``, ``ema-epoch_3.pth``, ``ckpt_10k.pt``,
``epoch=3-step=1000.ckpt``, ``0001000.pt``. Checkpoints whose names differ only in these numbers
belong to one run; the suffix does not count.
"""

import re
from dataclasses import dataclass

_WORDS = {
    "step": "step",
    "steps": "step",
    "iter": "iteration",
    "iters": "iteration",
    "iteration": "iteration",
    "update": "update",
    "epoch": "epoch",
    "ep": "epoch",
    "checkpoint": "step",
    "ckpt": "step",
}
"""Word before the number -> the unit it counts; where a name has several, the first here wins."""

_NUMBERED = re.compile(
    rf"(?<![a-z])(?P<word>{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    r"(?P<between>[-_=. ]?)(?P<number>\d{1,15})(?P<thousands>[km]?)(?![a-z0-9])",
    re.IGNORECASE,
)
_ENDING = re.compile(r"\.(safetensors|pth\.tar|pth|pt|bin|ckpt)$", re.IGNORECASE)
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6}


@dataclass(frozen=True)
class TrainingStep:
    """The position of a checkpoint in a training run."""

    run: str
    """The name with ``*`` for its numbers: the same for all checkpoints of a run."""
    unit: str
    """The unit: ``step``, ``iteration``, ``update`` or ``epoch``."""
    number: int


def step_of(path: str) -> TrainingStep | None:
    """Return run and step of a checkpoint.

    Parameters
    ----------
    path
        Path of a file or folder below the watched folder.

    Returns
    -------
    TrainingStep or None
        None where the name has no step: ``vit_base_patch16_224.safetensors`` is no step 224.
    """
    folder, _, name = path.rpartition("/")
    stem = _ENDING.sub("", name)
    found = list(_NUMBERED.finditer(stem))
    if found:
        known = list(_WORDS)
        best = min(found, key=lambda match: known.index(match["word"].lower()))
        number = int(best["number"]) * _THOUSANDS[best["thousands"].lower()]
        unit = _WORDS[best["word"].lower()]
        run = _NUMBERED.sub(lambda match: f"{match['word']}{match['between']}*", stem)
    elif re.fullmatch(r"\d{1,15}", stem):
        number, unit, run = int(stem), "step", "*"
    else:
        return None
    return TrainingStep(f"{folder}/{run}" if folder else run, unit, number)


def order(path: str) -> tuple[str, int, str]:
    """Return the sort key of checkpoints: runs together, by ascending step."""
    step = step_of(path)
    return (step.run, step.number, path) if step else (path, 0, path)
