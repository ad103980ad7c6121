"""What is told beforehand: it writes nothing, and it comes true."""

from pathlib import Path

import psutil
import pytest

from soapworks.errors import InputError, LayerError, ResourceError
from soapworks.flows.run_score import plan_run
from soapworks.tasks.plan.cost import Projection, refuse_if_too_large
from soapworks.tasks.plan.models import ModelEntry
from soapworks.tasks.stages.stored_features import StatisticsMemory, images_per_range
from tests.tasks.conftest import run_stages


def plan(request) -> Projection:
    models = [ModelEntry(checkpoint=request.checkpoint)]
    (projection,), _ = plan_run(models, request.images, request.settings, request.options)
    return projection


def test_plan_writes_nothing(request_of) -> None:
    request = request_of()
    assert plan(request).forward_passes == 31
    assert not Path(request.options.store).exists()


def test_projected_bytes_come_true(request_of) -> None:
    request = request_of()
    projection = plan(request)
    run_stages(request)
    for kind in ("features", "moments", "pca", "responses", "heads"):
        written = sum(
            file["bytes"]
            for product in request.store().products(kind)
            for file in product.record["files"].values()
        )
        slack = 8192 * projection.products[kind]
        assert projection.n_bytes[kind] - slack <= written <= projection.n_bytes[kind]


def test_products_are_counted(request_of) -> None:
    # 3 layers; 21 photographs in segments of 8, 8, 5; 10 synthetic images in segments of 8, 2.
    assert plan(request_of()).products == {
        "features": 15,
        "moments": 9,
        "pca": 3,
        "responses": 15,
        "scores": 3,
        "heads": 3,
    }


def test_what_is_there_costs_nothing(request_of) -> None:
    run_stages(request_of(layers="norm"))
    projection = plan(request_of(layers="norm,blocks.0"))
    assert projection.cached_layers == ("norm",)
    assert projection.products["heads"] == 1
    assert plan(request_of(layers="norm")).total_bytes == 0


def test_heads_without_features_need_nothing(request_of) -> None:
    request = request_of(layers="norm")
    run_stages(request)
    store = request.store()
    for product in store.products("features"):
        store.delete(product)
    assert plan(request).forward_passes == 0
    assert plan(request_of(layers="norm", mu=5)).forward_passes == 0


def test_a_run_that_does_not_fit_is_refused_with_both_numbers(request_of, monkeypatch) -> None:
    from soapworks.storage_schemas.store import Store

    monkeypatch.setattr(Store, "free_bytes", lambda self: 10_000)
    request = request_of()
    with pytest.raises(ResourceError, match=r"would write .* kB into .* 10.0 kB free"):
        refuse_if_too_large(plan(request), request.store())


def test_memory_that_holds_no_image_is_refused_with_both_numbers() -> None:
    with pytest.raises(ResourceError, match=r"need [\d.]+ [MG]B .* the limit is 64.0 MB"):
        StatisticsMemory((10, 37, 37, 1536), 64).threads(64_000_000, 2, "raise --memory")


def test_memory_limits_threads_and_not_ranges() -> None:
    used = psutil.Process().memory_info().rss
    shape = (1000, 14, 14, 768)
    # A range of 55 images is 33 MB in float32; four copies and three 768 x 768 matrices: 147 MB.
    assert images_per_range(shape, 64) == 55
    need = StatisticsMemory(shape, 64)
    assert need.threads(used + 200_000_000, 8, "") == 1
    assert need.threads(used + 700_000_000, 8, "") == 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layers": "blocks.7"}, LayerError, "blocks.0"),
        ({"image_size": 36}, InputError, "32 or 40"),
        ({"spec": "pink"}, InputError, "authors or balanced"),
        ({"mu": 25.0}, InputError, "0 to 24"),
        ({"weights": "selected", "components": (24,)}, InputError, "0 to 23"),
    ],
)
def test_what_cannot_be_is_refused(request_of, changes, error, message) -> None:
    with pytest.raises(error, match=message):
        plan(request_of(**changes))
