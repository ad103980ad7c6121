"""Run and step as names tell them."""

import pytest

from soapworks.tasks.watch.steps import TrainingStep, order, step_of


@pytest.mark.parametrize(
    ("path", "run", "unit", "number"),
    [
        ("step_1000.safetensors", "step_*", "step", 1000),
        ("step_0002000.pth", "step_*", "step", 2000),
        ("mae/checkpoint-1000", "mae/checkpoint-*", "step", 1000),
        ("checkpoint-799.pth", "checkpoint-*", "step", 799),
        ("epoch_3", "epoch_*", "epoch", 3),
        ("ema-epoch3.pt", "ema-epoch*", "epoch", 3),
        ("epoch=3-step=1000.ckpt", "epoch=*-step=*", "step", 1000),
        (
            "vit_base_patch16_224_iter_40k.pth.tar",
            "vit_base_patch16_224_iter_*",
            "iteration",
            40000,
        ),
        ("Step_5.bin", "Step_*", "step", 5),
        ("0001000.pt", "*", "step", 1000),
        ("run_2/step_7.pt", "run_2/step_*", "step", 7),
    ],
)
def test_run_and_step(path: str, run: str, unit: str, number: int) -> None:
    assert step_of(path) == TrainingStep(run, unit, number)


@pytest.mark.parametrize(
    "path",
    ["vit_base_patch16_224.safetensors", "last.pt", "footstep_9.pt", "step_10ema.pt", "step.pt"],
)
def test_names_without_a_step(path: str) -> None:
    assert step_of(path) is None


def test_the_ending_and_the_number_do_not_tell_runs_apart_the_rest_does() -> None:
    runs = [step_of(name) for name in ("step_1.pt", "step_20.safetensors", "ema_step_1.pt")]
    assert [step.run for step in runs if step] == ["step_*", "step_*", "ema_step_*"]


def test_steps_are_ordered_as_numbers() -> None:
    names = ["step_900.pt", "step_10000.pt", "b.pt", "step_1000.pt", "a.pt"]
    assert sorted(names, key=order) == [
        *("a.pt", "b.pt"),
        *("step_900.pt", "step_1000.pt", "step_10000.pt"),
    ]
