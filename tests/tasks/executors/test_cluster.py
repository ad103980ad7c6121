"""On a Dask cluster: the same bytes as in one process, and a dead worker costs its block."""

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster, SpecCluster, get_worker

from soapworks.errors import PrecisionError, ResourceError
from soapworks.storage_schemas.layout.names import PARTIAL
from soapworks.tasks import run as stages
from soapworks.tasks.events import Notice
from soapworks.tasks.executors.cluster import Cluster
from soapworks.tasks.executors.connection import connected
from soapworks.tasks.passes import loading
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings
from soapworks.tasks.stages.stored_features import StatisticsMemory
from tests.clusters import LittleMemory, Patches, StandStill, on_workers
from tests.small import write_photographs
from tests.tasks.conftest import Forwards, advanced, run_stages
from tests.tasks.stages.test_precision import changed_checkpoint
from tests.tasks.stages.test_stream import without_features
from tests.tasks.test_resume import contents


@pytest.fixture
def on_cluster(request_of, dask_cluster: SpecCluster) -> Callable:
    """Make a request for the cluster."""

    def make(**changes):
        return request_of(dask=dask_cluster.scheduler_address, **changes)

    return make


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"), 21)


@pytest.fixture(scope="module")
def expected(
    checkpoint: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable:
    """Return the files of a run in one process, by the size of its segments."""

    @lru_cache
    def of(segment_images: int) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("expected")
        request = ScoreRequest(
            checkpoint=str(checkpoint),
            images=str(photographs),
            settings=ScoreSettings(
                synthetic_images=10, block_images=4, segment_images=segment_images
            ),
            options=RunOptions(store=str(folder / "store"), device="cpu", batch_size=4, workers=2),
        )
        run_stages(request)
        return contents(request.store())

    return of


def test_features_kept_are_those_of_one_process(
    on_cluster, expected, forwards: Forwards, events: list
) -> None:
    request = on_cluster()
    run_stages(request)
    assert not forwards.calls  # none in this process
    assert advanced(events, "extract") == 31
    found = contents(request.store())
    assert {name.split("/")[0] for name in found} == {
        *("images", "features", "moments", "pca", "responses", "scores", "heads")
    }
    assert found == expected(8)


def test_streamed_statistics_are_those_of_one_process(
    on_cluster, expected, forwards: Forwards, events: list
) -> None:
    request = on_cluster(keep_features="none")
    run_stages(request)
    assert not forwards.calls
    assert (advanced(events, "extract"), advanced(events, "respond")) == (21, 31)
    assert contents(request.store()) == without_features(expected(8))


def test_relative_addresses_mean_the_same_on_the_workers(
    on_cluster, checkpoint: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, tmp_path / "model")
    run_stages(
        on_cluster(
            store="here", images=os.path.relpath(photographs), checkpoint="./model", layers="norm"
        )
    )
    assert (tmp_path / "here" / "heads").is_dir()


def test_both_workers_pass_and_each_image_once(
    on_cluster, dask_cluster: SpecCluster, tmp_path: Path
) -> None:
    notes = Patches(tmp_path / "notes")
    with on_workers(dask_cluster.scheduler_address, notes) as client:
        run_stages(on_cluster(segment_images=32))
        workers = set(client.run(os.getpid).values())
    assert notes.n_images == 31
    assert {process for process, _, _ in notes.passes} == workers


@pytest.mark.parametrize("keep_features", ["all", "none"])
def test_a_killed_worker_costs_its_running_block(
    on_cluster, dask_cluster: SpecCluster, expected, tmp_path: Path, keep_features: str
) -> None:
    request = on_cluster(segment_images=32, keep_features=keep_features)
    plugin = StandStill(tmp_path / "notes")
    with (
        on_workers(dask_cluster.scheduler_address, plugin) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        run = pool.submit(run_stages, request)
        os.kill(plugin.wait_for_process(), signal.SIGKILL)
        run.result()
        client.wait_for_workers(2, timeout=60)
    whole = expected(32)
    assert contents(request.store()) == (
        whole if keep_features == "all" else without_features(whole)
    )
    # Real images pass twice where features are not kept; a block is four of them.
    assert plugin.n_images == (31 if keep_features == "all" else 52) + 4
    # A kill in the middle of a write leaves a file under a name that is none, for gc to clear.
    left = [place.name for place, _ in request.store().abandoned()]
    assert [name for name in left if not name.endswith(PARTIAL)] == []


def test_memory_that_runs_out_halves_the_batch_over_there(
    on_cluster, dask_cluster: SpecCluster, expected, tmp_path: Path, events: list
) -> None:
    with on_workers(dask_cluster.scheduler_address, LittleMemory(tmp_path / "notes")):
        # A batch size of its own: workers remember the halved one.
        request = on_cluster(batch_size=3, layers="norm")
        run_stages(request)
    told = {event.message for event in events if isinstance(event, Notice)}
    assert told == {"memory ran out: the batch is 1 images from now on"}
    assert len(request.store().products("heads")) == 1


def test_an_error_on_a_worker_is_told_as_here(on_cluster, tmp_path: Path) -> None:
    folder = changed_checkpoint(tmp_path / "massive", "blocks.0.mlp.fc2.bias", 1e5)
    request = on_cluster(checkpoint=str(folder), layers="blocks.0", store_dtype="float16")
    with pytest.raises(PrecisionError, match=r"blocks.0: inf in channel 7 .*\.png.*float32"):
        run_stages(request)
    assert not request.store().products("features")


def where(_: object) -> object:
    return get_worker().name


def test_passes_go_to_workers_that_declare_a_gpu(dask_cluster: SpecCluster) -> None:
    with connected(dask_cluster.scheduler_address) as cluster:
        for device in ("auto", "cuda", "cuda:0"):
            resources = cluster.resources(device)
            assert set(cluster.as_done(where, range(8), resources)) == {1}
        assert cluster.resources("cpu") == {}


def test_results_come_in_order_with_few_in_flight(dask_cluster: SpecCluster) -> None:
    taken = []

    def counted():
        for number in range(50):
            taken.append(number)
            yield number

    with connected(dask_cluster.scheduler_address) as cluster:
        done = cluster.as_done(float, counted(), {})
        next(done)
        assert len(taken) <= 2 * 2 + 1
        done.close()
        at = cluster.within(StatisticsMemory((4, 2, 2, 3), 4))
        assert list(at.each(float, range(50))) == [float(n) for n in range(50)]


@pytest.mark.parametrize("way", ["as_done", "each"])
def test_room_may_shrink_below_what_is_under_way(
    dask_cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    original, n_asked = Cluster.workers, [0]

    def workers(cluster: Cluster, resources):
        n_asked[0] += 1
        found = original(cluster, resources)
        return found if n_asked[0] == 1 else dict(list(found.items())[:1])

    with connected(dask_cluster.scheduler_address) as cluster:
        monkeypatch.setattr(Cluster, "workers", workers)
        if way == "each":
            done = cluster.within(StatisticsMemory((4, 2, 2, 3), 4)).each(float, range(12))
        else:
            done = cluster.as_done(float, range(12), {})
        assert sorted(done) == [float(n) for n in range(12)]


def test_statistics_beyond_a_workers_memory_are_refused(dask_cluster: SpecCluster) -> None:
    with (
        connected(dask_cluster.scheduler_address) as cluster,
        pytest.raises(ResourceError, match=r"need .* limit is 4.*GB.*--memory-limit") as error,
    ):
        list(cluster.within(StatisticsMemory((8, 37, 37, 20000), 4)).each(float, [1]))
    assert "20000 channels on a 37 x 37 grid" in str(error.value)


def test_threads_of_a_worker_share_one_network_and_take_turns(
    request_of, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a cluster in this very process."""
    from soapworks import backbones

    loaded, inside, most = [], [], []
    build, features = backbones.build_backbone, backbones.Backbone.features

    def counting_build(*arguments, **options):
        loaded.append(1)
        return build(*arguments, **options)

    def counting_features(*arguments):
        inside.append(1)
        most.append(len(inside))
        try:
            return features(*arguments)
        finally:
            inside.pop()

    run = request_of(layers="norm", segment_images=32)
    (manifest,), (identity,) = stages.index_stage(run).keys, stages.identify_stage(run).keys
    loading._load_backbone.cache_clear()
    monkeypatch.setattr(backbones, "build_backbone", counting_build)
    monkeypatch.setattr(backbones.Backbone, "features", counting_features)
    before = torch.get_num_threads()
    with LocalCluster(
        n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0"
    ) as cluster:
        options = run.options.model_copy(update={"dask": cluster.scheduler_address})
        request = run.model_copy(update={"options": options}).planned(manifest, identity)
        stages.extract_stage(request, "real")
    torch.set_num_threads(before)
    assert (len(loaded), len(most), max(most)) == (1, 6, 1)


def test_what_is_sent_is_small(on_cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    sizes = []
    submit = Client.submit

    def measured(client: Client, function, *arguments, **options):
        sizes.append(len(pickle.dumps((function, arguments))))
        return submit(client, function, *arguments, **options)

    monkeypatch.setattr(Client, "submit", measured)
    run_stages(on_cluster(keep_features="none"))
    assert sizes
    assert max(sizes) < 20_000
