"""No features kept: the same numbers from passes through the network, nothing large written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from soapworks.errors import PrecisionError, ResourceError
from soapworks.storage_schemas.leasing.leases import LeaseLostError
from soapworks.storage_schemas.store import Attempt, Store
from soapworks.tasks import run as stages
from soapworks.tasks.events import StageAdvanced
from soapworks.tasks.plan.cost import Projection, refuse_if_too_large
from soapworks.tasks.stages import stream
from soapworks.tasks.stages.score import read_score_table
from tests.small import write_photographs
from tests.tasks.conftest import Forwards, advanced, run_stages
from tests.tasks.plan.test_cost import plan
from tests.tasks.stages.test_precision import changed_checkpoint
from tests.tasks.test_resume import Killed, contents, fail_at_call


@pytest.fixture
def streamed(request_of) -> Callable:
    """Make a request that keeps no features."""

    def make(**changes):
        return request_of(keep_features="none", **changes)

    return make


def without_features(found: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if not name.startswith("features/")}


def delete_features(store: Store, *, but: str = "") -> None:
    for product in store.products("features"):
        if product.recipe["subject"]["layer"] != but:
            store.delete(product)


def noting(written: list[tuple[str, int]], original: Callable[..., None]) -> Callable[..., None]:
    """Write a block and note it, once it is written."""

    def write_block(writer, number, arrays) -> None:
        original(writer, number, arrays)
        written.append((writer.attempt.parent.name, number))

    return write_block


@pytest.mark.parametrize(("store_dtype", "segment_images"), [("float16", 32), ("float32", 8)])
def test_both_modes_make_the_same_files(
    request_of, streamed, tmp_path: Path, store_dtype: str, segment_images: int
) -> None:
    """On a CPU to the byte: the statistics see the same numbers in the same pieces and order."""
    settings = {"store_dtype": store_dtype, "segment_images": segment_images}
    kept = request_of(**settings)
    passed = streamed(**settings, store=str(tmp_path / "streamed"))
    run_stages(kept)
    run_stages(passed)
    expected = without_features(contents(kept.store()))
    assert {name.split("/")[0] for name in expected} == {
        *("images", "moments", "pca", "responses", "scores", "heads")
    }
    assert contents(passed.store()) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_scores_agree(request_of, streamed, tmp_path: Path) -> None:
    """Streamed statistics are computed there, stored ones on the host: other roundings."""
    kept = request_of(layers="norm", device="cuda", store_dtype="float32")
    passed = streamed(
        layers="norm", device="cuda", store_dtype="float32", store=str(tmp_path / "streamed")
    )
    tables = []
    for request in (kept, passed):
        (row,) = run_stages(request)
        store = request.store()
        tables.append(read_score_table(store.product(store.product(row["key"]).recipe["scores"])))
    one, other = tables
    # A norm without weights leaves one direction without variance: its signs are rounding.
    real = one["variance_share"] > 1e-9
    assert real.sum() >= 23
    np.testing.assert_allclose(
        other["explained_variance"][real], one["explained_variance"][real], rtol=1e-5
    )
    # One response of 21 x 16 may fall on the other side of zero.
    np.testing.assert_allclose(other["si"][real], one["si"][real], atol=3e-3)


def test_pieces_of_a_block_are_those_of_stored_features(
    request_of, streamed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A block larger than what a thread takes at once: 3 of its 4 images, then 1."""
    from soapworks.tasks.stages import stored_features

    monkeypatch.setattr(stored_features, "RANGE_BYTES", 3 * 16 * 24 * 4)
    kept, passed = request_of(), streamed(store=str(tmp_path / "streamed"))
    run_stages(kept)
    run_stages(passed)
    assert contents(passed.store()) == without_features(contents(kept.store()))


def test_nothing_of_the_features_is_written(streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    request = streamed()
    run_stages(request)
    assert "features" not in request.store().kinds()
    assert request.store().abandoned() == []
    files = {path.name for path in Path(request.options.store).rglob("*") if path.is_file()}
    assert not [name for name in files if "block" in name]


def test_real_images_pass_twice_and_synthetic_ones_once(
    streamed, forwards: Forwards, events: list
) -> None:
    run_stages(streamed())
    assert forwards.n_images == 2 * 21 + 10
    assert {layers for _, layers in forwards.calls} == {("blocks.0", "blocks.1", "norm")}
    assert (advanced(events, "extract"), advanced(events, "respond")) == (21, 31)


def test_second_run_does_no_forward_pass(streamed, forwards: Forwards) -> None:
    run_stages(streamed())
    forwards.calls.clear()
    rows = run_stages(streamed())
    assert not forwards.calls
    assert all(row["cached"] for row in rows)


@pytest.mark.parametrize("call", [1, 4, 9, 17])
@pytest.mark.parametrize("stage", ["extract", "respond"])
def test_interrupted_pass_goes_on_where_it_stopped(
    streamed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str, call: int
) -> None:
    """3 layers x 6 real blocks in the first pass; the second has the 3 synthetic blocks too."""
    undisturbed = streamed(store=str(tmp_path / "undisturbed"), segment_images=32)
    run_stages(undisturbed)
    # One worker: nothing is still being written when the run is over.
    request = streamed(segment_images=32, workers=1)
    # The blocks of the second pass come after the 18 of the first one.
    interrupt = fail_at_call(call + 18 * (stage == "respond"), stream.write_block)
    written: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(stream, "write_block", noting(written, interrupt))
        with pytest.raises(Killed):
            run_stages(request)
    monkeypatch.setattr(stream, "write_block", noting(written, stream.write_block))
    run_stages(request)
    assert contents(request.store()) == contents(undisturbed.store())
    # No block of any layer was made twice, and none was left out.
    assert len(written) == len(set(written)) == 3 * (6 + 6 + 3)
    assert request.store().abandoned() == []


def test_a_lost_lease_costs_the_unfinished_blocks_only(
    streamed, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = streamed(segment_images=32, layers="norm", workers=1)
    original, calls = stream.write_block, []

    def write_block(writer, number, arrays) -> None:
        calls.append(number)
        if len(calls) == 4:
            raise LeaseLostError("taken over")
        original(writer, number, arrays)

    monkeypatch.setattr(stream, "write_block", write_block)
    run_stages(request)
    assert calls[:7] == [0, 1, 2, 3, 3, 4, 5]
    # The fourth block of 4 images passes again.
    assert forwards.n_images == 52 + 4


def test_only_unfinished_blocks_pass_again(
    streamed, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = streamed(segment_images=32, layers="norm", workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "write_block", fail_at_call(4, stream.write_block))
        with pytest.raises(Killed):
            run_stages(request)
    forwards.calls.clear()
    run_stages(request)
    # Of 21 real images the first 3 blocks of 4 were finished.
    assert forwards.n_images == (21 - 12) + 31


def test_killed_between_the_last_block_and_publishing_nothing_passes_again(
    streamed, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = streamed(layers="norm", segment_images=32)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "write_moments", fail_at_call(1, stream.write_moments))
        with pytest.raises(Killed):
            run_stages(request)
    assert forwards.n_images == 21
    run_stages(request)
    assert forwards.n_images == 21 + 31


def test_features_that_are_there_are_used(request_of, streamed, forwards: Forwards) -> None:
    """Features of one layer alone: it needs no pass, the other layer has its own."""
    run_stages(request_of(layers="norm", synthetic_images=5))
    for kind in ("heads", "scores", "responses", "pca", "moments"):
        for product in request_of().store().products(kind):
            request_of().store().delete(product)
    forwards.calls.clear()
    request = streamed(layers="norm,blocks.0", synthetic_images=5)
    projection = plan(request)
    run_stages(request)
    assert {layers for _, layers in forwards.calls} == {("blocks.0",)}
    assert forwards.n_images == projection.forward_passes == 2 * 21 + 5


def test_a_mixture_has_the_same_numbers(request_of, streamed, tmp_path: Path) -> None:
    kept = request_of()
    run_stages(kept)
    mixed = streamed(store=str(tmp_path / "mixed"))
    shutil.copytree(kept.options.store, mixed.options.store)
    for kind in ("heads", "scores", "responses", "pca", "moments"):
        for product in mixed.store().products(kind):
            mixed.store().delete(product)
    delete_features(mixed.store(), but="blocks.1")
    run_stages(mixed)
    expected = without_features(contents(kept.store()))
    assert without_features(contents(mixed.store())) == expected


def test_features_deleted_after_the_components_cost_the_second_pass_only(
    request_of, streamed, forwards: Forwards
) -> None:
    request = request_of(layers="norm")
    run_stages(request)
    delete_features(request.store())
    for kind in ("heads", "scores", "responses"):
        for product in request.store().products(kind):
            request.store().delete(product)
    forwards.calls.clear()
    assert plan(streamed(layers="norm")).forward_passes == 31
    run_stages(streamed(layers="norm"))
    assert forwards.n_images == 31


def test_growth_passes_all_images_once_and_the_new_ones_twice(
    request_of, streamed, photographs: Path, forwards: Forwards, tmp_path: Path
) -> None:
    """New photographs change the components, and responses are to the components."""
    run_stages(streamed(layers="norm"))
    forwards.calls.clear()
    write_photographs(photographs, 5, first=21)
    request = streamed(layers="norm")
    assert plan(request).forward_passes == 5 + 26 + 10
    (grown,) = run_stages(request)
    assert forwards.n_images == 5 + 26 + 10
    kept = request_of(layers="norm", store=str(tmp_path / "kept"))
    shutil.copytree(Path(request.options.store) / "images", tmp_path / "kept" / "images")
    (row,) = run_stages(kept)
    assert grown["key"] == row["key"]
    found = contents(request.store())
    expected = without_features(contents(kept.store()))
    assert expected.items() <= found.items()


def test_layers_are_asked_for_one_after_the_other(streamed, forwards: Forwards) -> None:
    run_stages(streamed(layers="blocks.0"))
    forwards.calls.clear()
    run_stages(streamed(layers="blocks.0,norm"))
    assert {layers for _, layers in forwards.calls} == {("norm",)}


def test_a_layer_that_another_holds_is_waited_for(
    streamed, forwards: Forwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holder dies at its first look: its layer alone gets a pass of its own."""
    request = streamed(layers="blocks.0,norm", segment_images=32)
    original = Store.claim
    refused: list[str] = []

    def claim(self: Store, recipe):
        if recipe.kind == "moments" and recipe.subject.layer == "norm" and not refused:
            refused.append(recipe.key)
            return None
        return original(self, recipe)

    monkeypatch.setattr(Store, "claim", claim)
    run_stages(request)
    passes = [layers for _, layers in forwards.calls]
    assert passes[:6] == [("blocks.0",)] * 6
    assert passes[6:12] == [("norm",)] * 6


def test_bad_features_are_found_in_a_stream_too(streamed, tmp_path: Path) -> None:
    folder = changed_checkpoint(tmp_path / "massive", "blocks.0.mlp.fc2.bias", 1e5)
    request = streamed(checkpoint=str(folder), layers="blocks.0", store_dtype="float16")
    with pytest.raises(PrecisionError, match=r"blocks.0: inf in channel 7 .*0000.png.*float32"):
        run_stages(request)
    assert not request.store().products("moments")


def test_projections_of_both_modes_come_true(
    request_of, streamed, forwards: Forwards, tmp_path: Path
) -> None:
    stores = {"all": str(tmp_path / "kept"), "none": str(tmp_path / "streamed")}
    asked: dict[str, Projection] = {
        mode: plan(request_of(keep_features=mode, store=store)) for mode, store in stores.items()
    }
    # Whichever mode is asked for, both are told, and alike.
    assert asked["all"].modes == asked["none"].modes
    for mode, store in stores.items():
        forwards.calls.clear()
        run_stages(request_of(keep_features=mode, store=store))
        cost = asked[mode].modes[mode]
        assert forwards.n_images == cost.forward_passes == asked[mode].forward_passes
        kinds = asked[mode].n_bytes
        written = sum(
            file["bytes"]
            for kind in kinds
            for product in Store(store).products(kind)
            for file in product.record["files"].values()
        )
        slack = 8192 * sum(asked[mode].products.values())
        assert cost.disk_bytes == asked[mode].total_bytes
        assert cost.disk_bytes - slack <= written <= cost.disk_bytes
    assert asked["none"].products["features"] == 0
    assert asked["all"].modes["all"].work_bytes == 0


def test_projected_work_is_never_exceeded(streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    request = streamed()
    cost = plan(request).modes["none"]
    seen: list[int] = []
    original = Attempt.publish

    def publish(self: Attempt, facts):
        folder = Path(request.options.store)
        work = [p for p in folder.rglob("*") if {"work", "parts"} & set(p.parts) and p.is_file()]
        seen.append(sum(path.stat().st_size for path in work))
        return original(self, facts)

    monkeypatch.setattr(Attempt, "publish", publish)
    run_stages(request)
    assert 0.7 * cost.work_bytes <= max(seen) <= cost.work_bytes


def test_a_disk_too_small_for_features_is_told_of_the_other_mode(
    request_of, streamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = plan(request_of()).modes
    streamed_bytes = costs["none"].disk_bytes + costs["none"].work_bytes
    monkeypatch.setattr(Store, "free_bytes", lambda self: streamed_bytes)
    refuse_if_too_large(plan(streamed()), streamed().store())
    with pytest.raises(ResourceError, match=r"--keep-features none: .*, 52 forward passes"):
        refuse_if_too_large(plan(request_of()), request_of().store())
    monkeypatch.setattr(Store, "free_bytes", lambda self: streamed_bytes - 1)
    with pytest.raises(ResourceError, match=r"(?!.*keep-features)would write"):
        refuse_if_too_large(plan(streamed()), streamed().store())


def test_stages_without_work_say_that_they_are_cached(request_of, streamed, events: list) -> None:
    run_stages(request_of(layers="norm"))
    events.clear()
    request = streamed(layers="norm")
    (manifest,) = stages.index_stage(request).keys
    (identity,) = stages.identify_stage(request).keys
    request = request.planned(manifest, identity)
    assert stages.moments_stage(request) == ([], True)
    assert stages.responses_stage(request, "synthetic") == ([], True)
    assert not [event for event in events if isinstance(event, StageAdvanced)]
