"""Checkpoints that arrive in a bucket, scored by the real stages into a bucket."""

from pathlib import Path

import boto3
import pytest

from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings, WatchOptions
from soapworks.tasks.watch.state import Watch
from tests.small import write_checkpoint
from tests.tasks.conftest import Forwards, run_stages
from tests.tasks.watchers import Clock, WatchCallbacks, Watcher


class Scorer(WatchCallbacks):
    """Scores in this process, without Prefect."""

    def score(self, checkpoint: str) -> list[LayerSummary]:
        watch = self.watch
        rows = run_stages(
            ScoreRequest(
                checkpoint=checkpoint,
                images=watch.images,
                settings=watch.settings,
                options=watch.options,
            )
        )
        return [LayerSummary(**row) for row in rows]


def put(endpoint: str, source: Path, prefix: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    for path in source.iterdir():
        client.upload_file(str(path), "arrivals", f"{prefix}/{path.name}")
    client.close()


def save_again(path: Path) -> None:
    """Write a weights file with the same tensors and other metadata."""
    from safetensors.torch import load_file, save

    path.write_bytes(save(load_file(path), {"note": "saved again"}))


@pytest.fixture
def watcher(s3_endpoint: str, photographs: Path) -> Watcher:
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="arrivals")
    client.close()
    watch = Watch.of(
        "s3://arrivals/checkpoints/",
        str(photographs),
        settings=ScoreSettings(layers="norm", synthetic_images=6, block_images=4, segment_images=8),
        options=RunOptions(store="s3://arrivals/store", device="cpu", batch_size=4, workers=2),
        watching=WatchOptions(stable_seconds=1),
    )
    watcher = Watcher(watch, Clock())
    watcher.callbacks = Scorer(watch)
    watcher.callbacks.draws = True
    return watcher


def test_a_training_run_in_a_bucket(
    watcher: Watcher,
    s3_endpoint: str,
    tmp_path: Path,
    forwards: Forwards,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOAPWORKS_HOME", str(tmp_path / "home"))
    assert watcher.round() == []
    model = write_checkpoint(tmp_path / "model", seed=1)
    put(s3_endpoint, model, "checkpoints/mae/step_1000")
    (outcome,) = watcher.round()
    assert (outcome.path, outcome.outcome) == ("mae/step_1000", "scored")
    assert outcome.checkpoint == "s3://arrivals/checkpoints/mae/step_1000"
    n_passes = forwards.n_images
    assert n_passes == 21 + 6
    assert watcher.round() == []
    # Saved again with the same tensors it is looked at, and found to be the same.
    before = watcher.watch.read("mae/step_1000")
    save_again(model / "model.safetensors")
    put(s3_endpoint, model, "checkpoints/mae/step_1000")
    assert [one.outcome for one in watcher.round()] == ["scored"]
    after = watcher.watch.read("mae/step_1000")
    assert before is not None
    assert after is not None
    assert after.fingerprint != before.fingerprint
    assert (after.digest, after.scores) == (before.digest, before.scores)
    assert forwards.n_images == n_passes
    # A later step with other weights costs its own passes, and the curve has both.
    put(s3_endpoint, write_checkpoint(tmp_path / "later", seed=2), "checkpoints/mae/step_2000")
    assert [one.outcome for one in watcher.round()] == ["scored"]
    assert forwards.n_images == 2 * n_passes
    curves = watcher.watch.place / "curves"
    (table,) = (name for name in curves.names() if name.endswith(".csv"))
    steps = [line.split(",")[2] for line in (curves / table).read_bytes().decode().split()[1:]]
    assert steps == ["1000", "2000"]
    # What was fetched to be read once is not kept.
    assert list((tmp_path / "home/checkpoints").iterdir()) == []
