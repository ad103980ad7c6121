import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from soapworks.storage_schemas.store import Store
from soapworks.tasks import run as stages
from soapworks.tasks.events import Event, StageAdvanced, listening
from soapworks.tasks.plan.recipes import CheckpointPlan, Missing, find_missing
from soapworks.tasks.plan.request import PlannedRequest, ScoreRequest, plan_of
from soapworks.tasks.reports.summary import summarize
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.small import write_checkpoint, write_photographs

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", 21)


@pytest.fixture
def request_of(checkpoint: Path, photographs: Path, tmp_path: Path) -> Callable[..., ScoreRequest]:
    """Make a request whose options and settings are small; any can be overridden."""

    def make(**changes: Any) -> ScoreRequest:
        options = {"store": str(tmp_path / "store"), "device": "cpu", "batch_size": 4, "workers": 2}
        settings = {"synthetic_images": 10, "block_images": 4, "segment_images": 8}
        fields: dict[str, Any] = {"checkpoint": str(checkpoint), "images": str(photographs)}
        for name, value in changes.items():
            for known, group in ((RunOptions, options), (ScoreSettings, settings)):
                if name in known.model_fields:
                    group[name] = value
            if name in ScoreRequest.model_fields:
                fields[name] = value
        return ScoreRequest(
            **fields, settings=ScoreSettings(**settings), options=RunOptions(**options)
        )

    return make


def run_stages(request: ScoreRequest) -> list[dict[str, Any]]:
    """Do what the flow does, without Prefect; return the summary."""
    (manifest,) = stages.index_stage(request).keys
    (identity,) = stages.identify_stage(request).keys
    request = request.planned(manifest, identity)
    plan = plan_of(request)
    missing = find_missing(request.store(), plan)
    layers = [layer.subject.layer for layer in plan.layers]
    if request.options.keep_features == "all":
        request = stages.settle(
            request,
            *(partial(stages.extract_stage, domain=domain) for domain in ("real", "synthetic")),
        )
        plan, missing = replanned(request, plan, missing)
        for layer in layers:
            for stage in (stages.pca_stage, stages.score_stage, stages.head_stage):
                stage(request, layer)
    else:
        request = stages.settle(
            request,
            stages.moments_stage,
            lambda request: [stages.pca_stage(request, layer) for layer in layers],
            *(partial(stages.responses_stage, domain=domain) for domain in ("real", "synthetic")),
        )
        plan, missing = replanned(request, plan, missing)
        for layer in layers:
            for stage in (stages.score_stage, stages.head_stage):
                stage(request, layer)
    return [layer.model_dump() for layer in summarize(request.store(), plan, missing)]


def replanned(
    request: PlannedRequest, plan: CheckpointPlan, missing: Missing
) -> tuple[CheckpointPlan, Missing]:
    """Return what is lacking once the passes are done, as before them unless dtypes changed."""
    again = plan_of(request)
    return again, missing if again == plan else find_missing(request.store(), again)


@pytest.fixture(scope="session")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreRequest:
    folder = tmp_path_factory.mktemp("finished")
    request = ScoreRequest(
        checkpoint=str(checkpoint),
        images=str(write_photographs(folder / "photographs", 10)),
        settings=ScoreSettings(layers="norm", synthetic_images=6, block_images=4, segment_images=8),
        options=RunOptions(store=str(folder / "store"), device="cpu", batch_size=4, workers=2),
    )
    run_stages(request)
    return request


@pytest.fixture
def request_(finished: ScoreRequest, tmp_path: Path) -> ScoreRequest:
    """A finished run, with a store of its own that a test may damage."""
    shutil.copytree(finished.options.store, tmp_path / "store")
    options = finished.options.model_copy(update={"store": str(tmp_path / "store")})
    return finished.model_copy(update={"options": options})


@pytest.fixture
def store(request_: ScoreRequest) -> Store:
    return request_.store()


class Forwards:
    """How many images went through how many blocks of the network."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[str, ...]]] = []

    @property
    def n_images(self) -> int:
        return sum(n for n, _ in self.calls)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Forwards:
    """Record every forward pass."""
    from soapworks.backbones import Backbone

    seen = Forwards()
    original = Backbone.features

    def features(self: Backbone, images: Any, layers: Any) -> Any:
        seen.calls.append((len(images), tuple(layers)))
        return original(self, images, layers)

    monkeypatch.setattr(Backbone, "features", features)
    return seen


@pytest.fixture
def events() -> Iterator[list[Event]]:
    seen: list[Event] = []
    with listening(seen.append):
        yield seen


def advanced(events: list[Event], stage: str) -> int:
    return sum(e.n for e in events if isinstance(e, StageAdvanced) and e.stage == stage)
