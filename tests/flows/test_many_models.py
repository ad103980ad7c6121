"""Several models in one run: a sub-flow each, and one that fails does not stop the others."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from soapworks.errors import CheckpointError, EngineError
from soapworks.flows.run_score import Outcome, plan_run, score
from soapworks.tasks.plan.models import ModelEntry, SomeFailedError
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.flows.test_score_flow import newest, soapworks
from tests.small import write_checkpoint, write_photographs

SMALL = {"layers": "norm", "synthetic_images": 6, "block_images": 4, "segment_images": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_checkpoint(folder / "one", seed=1)
    write_checkpoint(folder / "two", seed=2)
    write_checkpoint(folder / "cut", seed=3)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    write_photographs(folder / "photographs", 9)
    return folder


def entries(place: Path, *names: str) -> list[ModelEntry]:
    return [ModelEntry(checkpoint=str(place / name)) for name in names]


def run(place: Path, store: Path, models: list[ModelEntry], **changes: Any) -> Outcome:
    options = RunOptions(store=str(store), device="cpu", batch_size=4, workers=2, **changes)

    @contextmanager
    def running() -> Iterator[None]:
        yield

    images = str(place / "photographs")
    return score(models, images, ScoreSettings(**SMALL), options, engine=running)


@pytest.mark.server
def test_one_that_fails_does_not_stop_the_others(
    place: Path, tmp_path: Path, prefect_server: str
) -> None:
    # "nowhere" is refused before the run, "cut" when its tensors are read.
    models = entries(place, "one", "nowhere", "cut", "two")
    models[3] = models[3].model_copy(update={"layers": "blocks.0"})
    outcome = run(place, tmp_path / "store", models)
    names = [(Path(layer.checkpoint).name, layer.layer) for layer in outcome.layers]
    assert names == [("one", "norm"), ("two", "blocks.0")]
    assert list(outcome.failures) == [str(place / "nowhere"), str(place / "cut")]
    assert "model.safetensors" in outcome.failures[str(place / "cut")]
    runs = newest(prefect_server, 4)
    assert {one["name"]: one["state"]["type"] for one in runs} == {
        f"score {place / 'one'} and 2 more": "FAILED",
        f"score {place / 'one'}": "COMPLETED",
        f"score {place / 'cut'}": "FAILED",
        f"score {place / 'two'}": "COMPLETED",
    }


@pytest.mark.server
def test_one_that_fails_half_way(
    place: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soapworks.flows.score import score_checkpoints
    from soapworks.tasks import run as stages

    original = stages.extract_stage

    def extract(request: Any, domain: str) -> Any:
        if request.checkpoint.endswith("one"):
            raise CheckpointError("it was changed")
        return original(request, domain)

    monkeypatch.setattr(stages, "extract_stage", extract)
    options = RunOptions(store=str(tmp_path / "store"), device="cpu", batch_size=4, workers=2)
    with pytest.raises(
        SomeFailedError, match=r"1 of 2 checkpoints failed .*it was changed"
    ) as told:
        score_checkpoints(
            entries(place, "one", "two"),
            str(place / "photographs"),
            settings=ScoreSettings(**SMALL),
            options=options,
        )
    assert told.value.failures == {str(place / "one"): "it was changed"}
    assert [Path(layer.checkpoint).name for layer in told.value.layers] == ["two"]
    with pytest.raises(CheckpointError, match="it was changed"):
        run(place, tmp_path / "other", entries(place, "one"))


@pytest.mark.server
def test_a_list_is_read_when_the_run_starts(
    place: Path, tmp_path: Path, prefect_server: str
) -> None:
    from soapworks.flows.score import score_checkpoints

    (tmp_path / "models.yaml").write_text(f"- {place / 'two'}\n")
    rows = score_checkpoints(
        [],
        str(place / "photographs"),
        settings=ScoreSettings(**SMALL),
        options=RunOptions(store=str(tmp_path / "store"), device="cpu", batch_size=4, workers=2),
        model_list=str(tmp_path / "models.yaml"),
    )
    assert [Path(row["checkpoint"]).name for row in rows] == ["two"]


@pytest.mark.server
def test_a_limit_that_the_server_does_not_have(
    place: Path, tmp_path: Path, prefect_server: str
) -> None:
    with pytest.raises(EngineError, match="prefect gcl create gpus --limit 1"):
        run(place, tmp_path / "store", entries(place, "one"), concurrency_limit="gpus")


@pytest.mark.server
def test_passes_hold_a_slot_of_the_limit(
    place: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    from soapworks.tasks import run as stages

    held: list[int] = []
    original = stages.extract_stage

    def active() -> int:
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name("passes").active_slots

    def extract(request: Any, domain: str) -> Any:
        held.append(active())
        return original(request, domain)

    monkeypatch.setattr(stages, "extract_stage", extract)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="passes", limit=1))
    run(place, tmp_path / "store", entries(place, "one"), concurrency_limit="passes")
    assert held == [1, 1]
    assert active() == 0


def test_a_plan_of_many(place: Path, tmp_path: Path) -> None:
    options = RunOptions(store=str(tmp_path / "store"), device="cpu")
    projections, failures = plan_run(
        entries(place, "one", "cut"), str(place / "photographs"), ScoreSettings(**SMALL), options
    )
    assert [Path(p.checkpoint).name for p in projections] == ["one"]
    assert list(failures) == [str(place / "cut")]


@pytest.mark.server
def test_a_list_on_the_command_line(place: Path, prefect_server: str) -> None:
    (place / "models.yaml").write_text("- ./one\n- checkpoint: ./cut\n- ./nowhere\n")
    words = ("--images", "photographs", "--device", "cpu", "--json", "--quiet", "--store", "listed")
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    found = soapworks(
        place, "score", "--list", "models.yaml", *words, *small, PREFECT_API_URL=prefect_server
    )
    assert found.returncode == 1
    assert [row["checkpoint"] for row in json.loads(found.stdout)] == ["./one"]
    first, second = found.stderr.strip().splitlines()
    assert first.startswith("soapworks: ./nowhere failed: ")
    assert second.startswith("soapworks: ./cut failed: ")
