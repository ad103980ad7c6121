import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from soapworks.zoo.scenes import N_CLASSES, render_scene
from soapworks.zoo.training.architecture import normalise, patchify
from soapworks.zoo.training.scene_cache import load_scenes
from soapworks.zoo.training.supervised import patch_shares
from soapworks.zoo.training.train import Schedule, Trainer, main

TINY = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 48}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return load_scenes(tmp_path_factory.mktemp("scenes"), 32, size=32, n_workers=0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels_of(scenes, n):
    return normalise(np.array(scenes.images[:n]))


def tiny_trainer(objective, scenes, **options):
    schedule = Schedule(n_steps=40, batch_size=32, n_warmup=2, learning_rate=3e-3, **options)
    return Trainer(objective, schedule, scenes, model_args=TINY)


@pytest.mark.parametrize("objective", ["mim", "supervised"])
def test_steps_lower_the_loss(objective, scenes):
    trainer = tiny_trainer(objective, scenes)
    losses = [trainer.step() for _ in range(20)]
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:2])


@pytest.mark.parametrize("objective", ["mim", "supervised"])
def test_every_weight_but_the_positions_is_trained(objective, scenes):
    trainer = tiny_trainer(objective, scenes)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for _ in range(2):
        trainer.step()
    same = {name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])}
    assert same == {"encoder.pos_embed"}


@pytest.mark.parametrize("objective", ["mim", "supervised"])
def test_a_resumed_run_ends_as_an_undisturbed_one(objective, scenes, tmp_path):
    whole = tiny_trainer(objective, scenes)
    for _ in range(4):
        whole.step()
    first = tiny_trainer(objective, scenes)
    for _ in range(2):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    second = tiny_trainer(objective, scenes)
    assert second.resume(tmp_path / "checkpoint.pt")
    for _ in range(2):
        second.step()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_another_schedule_does_not_resume(scenes, tmp_path):
    tiny_trainer("mim", scenes).save(tmp_path / "checkpoint.pt")
    other = tiny_trainer("mim", scenes, seed=1)
    assert not other.resume(tmp_path / "checkpoint.pt")
    assert not other.resume(tmp_path / "missing.pt")


@torch.no_grad()
def test_masked_model_never_sees_hidden_patches(scenes):
    model = tiny_trainer("mim", scenes).model.eval()
    images = pixels_of(scenes, 2)
    order = torch.arange(16).expand(2, -1)
    seen = []
    model.encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images, order)
    changed = images.clone()
    changed[:, :, 8:] = 0.0  # patches 4 to 15 are hidden: all rows but the first
    model(changed, order)
    assert seen[0].shape == (2, 1 + 4, 48)
    assert torch.equal(seen[0], seen[1])


@torch.no_grad()
def test_masked_loss_of_a_silent_decoder_is_the_targets_own_variance(scenes):
    model = tiny_trainer("mim", scenes).model.eval()
    torch.nn.init.zeros_(model.pixels.weight)
    torch.nn.init.zeros_(model.pixels.bias)
    order = torch.stack([torch.randperm(16) for _ in range(8)])
    # Targets have mean 0 and variance 1 with divisor n-1, n = 8 x 8 x 3.
    loss = float(model(pixels_of(scenes, 8), order))
    assert loss == pytest.approx(191 / 192, rel=1e-3)


@torch.no_grad()
def test_masked_loss_compares_each_hidden_patch_with_its_own_pixels(scenes):
    model = tiny_trainer("mim", scenes).model.eval()
    images = pixels_of(scenes, 1)
    order = torch.randperm(16)[None]
    hidden = order[0, 4:].tolist()
    squares = [
        images[0, :, 8 * (p // 4) : 8 * (p // 4) + 8, 8 * (p % 4) : 8 * (p % 4) + 8] for p in hidden
    ]
    model.decoder = torch.nn.Identity()
    model.decoder_norm = torch.nn.Identity()
    # The decoder's input is the mask token plus the position's code: a prediction that is known.
    expected = []
    for patch, square in zip(hidden, squares, strict=True):
        target = square.permute(1, 2, 0).flatten()
        target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
        predicted = model.pixels(model.mask_token[0, 0] + model.positions[0, 1 + patch])
        expected.append(float((predicted - target).square().mean()))
    assert float(model(images, order)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_patches_are_cut_row_by_row():
    pixels = torch.arange(2 * 3 * 16 * 24, dtype=torch.float32).reshape(2, 3, 16, 24)
    patches = patchify(pixels, 8)
    assert patches.shape == (2, 6, 192)
    naive = pixels[1, :, 8:16, 16:24].permute(1, 2, 0).flatten()
    assert torch.equal(patches[1, 5], naive)


def test_patch_shares_count_each_patchs_pixels():
    masks = np.random.default_rng(0).integers(0, N_CLASSES, (2, 16, 24)).astype(np.uint8)
    shares = patch_shares(masks, 8)
    assert shares.shape == (2, 6, N_CLASSES)
    for patch, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        square = masks[1, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        naive = [(square == c).sum() / 64 for c in range(N_CLASSES)]
        np.testing.assert_allclose(shares[1, patch], naive, atol=1e-7)


def test_learning_rate_warms_up_and_falls_along_half_a_cosine():
    schedule = Schedule(n_steps=110, n_warmup=10, learning_rate=2.0)
    assert schedule.rate(0) == pytest.approx(0.2)
    assert schedule.rate(9) == pytest.approx(2.0)
    assert schedule.rate(60) == pytest.approx(1.0)
    assert schedule.rate(110) == pytest.approx(0.0, abs=1e-12)


def test_learning_rate_stays_at_its_peak_until_the_last_share():
    schedule = Schedule(n_steps=110, n_warmup=10, learning_rate=2.0, decay_share=0.5)
    assert schedule.rate(10) == schedule.rate(60) == pytest.approx(2.0)
    assert schedule.rate(85) == pytest.approx(1.0)
    assert schedule.rate(110) == pytest.approx(0.0, abs=1e-12)


def test_a_run_may_be_made_longer_until_its_rate_falls():
    short = Schedule(n_steps=110, n_warmup=10, decay_share=0.5)
    longer = Schedule(n_steps=210, n_warmup=10, decay_share=0.5)
    assert longer.continues(short, 61)
    assert not longer.continues(short, 62)
    assert not Schedule(n_steps=110, n_warmup=10, decay_share=0.5, seed=1).continues(short, 5)


def test_cached_scenes_are_the_rendered_ones_and_are_rendered_once(tmp_path, monkeypatch):
    made = load_scenes(tmp_path, 3, size=16, seed=7, n_workers=0)
    for index in range(3):
        scene = render_scene(index, size=16, seed=7)
        np.testing.assert_array_equal(made.images[index], scene.image)
        np.testing.assert_array_equal(made.masks[index], scene.mask)
        assert made.labels[index] == scene.label

    def refuse(*_args):
        raise AssertionError("rendered again")

    monkeypatch.setattr("soapworks.zoo.training.scene_cache._render", refuse)
    again = load_scenes(tmp_path, 3, size=16, seed=7)
    np.testing.assert_array_equal(made.images, again.images)


def test_command_stops_after_the_steps_asked_for_and_goes_on_later(tmp_path):
    arguments = ["mim", "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--steps", 3]
    arguments += ["--scenes", 64, "--held-out", 64, "--batch-size", 2]
    run = [str(a) for a in arguments]
    first = CliRunner().invoke(main, [*run, "--stop-after", "1"], catch_exceptions=False)
    second = CliRunner().invoke(main, run, catch_exceptions=False)
    assert [json.loads(done.stdout)["step"] for done in (first, second)] == [1, 3]


@pytest.mark.parametrize("objective", ["mim", "supervised"])
def test_command_publishes_a_folder_and_says_how_it_went(objective, tmp_path):
    arguments = [objective, "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--steps", 2]
    arguments += ["--scenes", 64, "--held-out", 64, "--batch-size", 2, "--every", 1]
    done = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_classes"] == 0
