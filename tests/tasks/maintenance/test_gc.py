"""Housekeeping: what goes is what was told, and nothing that is wanted goes."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from soapworks.errors import DamagedProductError
from soapworks.flows.run_score import plan_run
from soapworks.storage_schemas.leasing.leases import Lease, acquire
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.records import encode_record
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.maintenance.gc import Candidate, Candidates, choose, clean
from soapworks.tasks.maintenance.retention import Retention, Stored, surplus_features, unreferenced
from soapworks.tasks.maintenance.verify import verify
from soapworks.tasks.plan.cost import Projection
from soapworks.tasks.plan.models import ModelEntry
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.small import write_checkpoint, write_photographs
from tests.tasks.conftest import Forwards, run_stages
from tests.tasks.test_resume import contents

NOW = timedelta(0)
EVERYTHING = Retention(keep_features=0, abandoned=True, unreferenced=True, older_than=NOW)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreRequest:
    folder = tmp_path_factory.mktemp("clean")
    request = ScoreRequest(
        checkpoint=str(checkpoint),
        images=str(write_photographs(folder / "photographs", 10)),
        settings=ScoreSettings(
            layers="blocks.1,norm", synthetic_images=6, block_images=4, segment_images=8
        ),
        options=RunOptions(store=str(folder / "store"), device="cpu", batch_size=4, workers=2),
    )
    run_stages(request)
    return request


@pytest.fixture
def request_(made: ScoreRequest, tmp_path: Path) -> ScoreRequest:
    """A finished run, with a store and photographs of its own."""
    shutil.copytree(made.options.store, tmp_path / "store")
    shutil.copytree(made.images, tmp_path / "photographs")
    options = made.options.model_copy(update={"store": str(tmp_path / "store")})
    return made.model_copy(update={"options": options, "images": str(tmp_path / "photographs")})


@pytest.fixture
def store(request_: ScoreRequest) -> Store:
    return request_.store()


@pytest.fixture
def hold() -> Iterator[object]:
    """Take leases as a living process does; all are given back."""
    leases: list[Lease] = []

    def take(location: Location) -> Lease:
        lease = acquire(location, 60)
        assert lease is not None
        leases.append(lease)
        return lease

    yield take
    for lease in leases:
        lease.release()


def other(request: ScoreRequest, **settings: object) -> ScoreRequest:
    return request.model_copy(update={"settings": request.settings.model_copy(update=settings)})


def plan(request: ScoreRequest) -> Projection:
    models = [ModelEntry(checkpoint=request.checkpoint)]
    (projection,), _ = plan_run(models, request.images, request.settings, request.options)
    return projection


def files(store: Store) -> dict[str, int]:
    root = Path(store.url)
    return {str(p.relative_to(root)): p.stat().st_size for p in root.rglob("*") if p.is_file()}


def paths(chosen: Candidates) -> list[str]:
    return [choice.path for choice in chosen.choices]


def sweep(store: Store, retention: Retention) -> list[Candidate]:
    deleted, left = clean(store, choose(store, retention))
    assert not left
    return deleted


def give_up(store: Store, product: Product, n_parts: int = 0) -> Attempt:
    """Leave an attempt behind, as a killed process does, with parts that are finished."""
    attempt = store.claim(product_recipe(product, seed=7))
    assert isinstance(attempt, Attempt)
    attempt.writer.write("half", b"12345")
    for number in range(n_parts):
        attempt.writer.write(f"part{number}", b"123")
        attempt.writer.finish_part(f"block-{number:06d}", [f"part{number}"])
    attempt._release()
    return attempt


def product_recipe(product: Product, seed: int) -> object:
    from soapworks.storage_schemas.layout.kinds import RECIPES

    fields = {k: v for k, v in product.recipe.items() if k != "kind"}
    fields["input"] = {**fields["input"], "seed": seed}
    return RECIPES[product.kind](**fields)


def synthetic(store: Store) -> Product:
    return next(p for p in store.products("features") if "synthetic" in p.slug)


def test_by_default_a_finished_store_has_nothing_to_delete(store: Store) -> None:
    assert choose(store, Retention()).choices == ()
    everything_else = Retention(unreferenced=True, older_than=NOW)
    assert choose(store, everything_else) == Candidates(())


def test_choosing_deletes_nothing_and_deleting_frees_what_was_told(store: Store) -> None:
    give_up(store, synthetic(store), 2)
    (synthetic(store).data / "stray").write_bytes(b"123")  # goes with its product, once
    before = files(store)
    chosen = choose(store, EVERYTHING)
    assert files(store) == before
    deleted, left = clean(store, chosen)
    assert (tuple(deleted), left) == (chosen.choices, {})
    after = files(store)
    assert after.items() <= before.items()
    assert chosen.n_bytes == sum(before.values()) - sum(after.values())
    for choice in chosen.choices:
        gone = {p: n for p, n in before.items() if f"{p}/".startswith(f"{choice.path}/")}
        assert choice.n_bytes == sum(gone.values()) > 0
        assert not gone.keys() & after.keys()
    assert not choose(store, EVERYTHING).choices


def test_without_features_everything_else_is_usable(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    before = contents(store)
    deleted = sweep(store, Retention(keep_features=0))
    assert {choice.path.split("/")[0] for choice in deleted} == {"features"}
    assert not store.products("features")
    after = contents(store)
    assert after.keys() == {name for name in before if not name.startswith("features")}
    assert not verify(store, workers=2).damaged
    assert all(row["cached"] for row in run_stages(request_))
    run_stages(other(request_, mu=5.0, centred=True))
    assert not forwards.calls


def test_plan_says_what_needs_a_forward_pass_again(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    assert plan(request_).images_without_features == 0
    sweep(store, Retention(keep_features=0))
    assert plan(request_).images_without_features == 16
    assert plan(request_).forward_passes == 0
    # Another precision of the moments changes the components, and with them all responses.
    wanted = other(request_, moments_precision="float64")
    projection = plan(wanted)
    assert (projection.forward_passes, projection.images_without_features) == (16, 0)
    run_stages(wanted)
    assert forwards.n_images == 16


def test_a_withdrawn_product_counts_as_gone(request_: ScoreRequest, store: Store) -> None:
    assert store.withdraw(synthetic(store))
    assert plan(request_).images_without_features == 6


@pytest.mark.parametrize(("n", "kept"), [(6, {"new"}), (15, {"new"}), (16, {"new", "old"})])
def test_the_newest_images_keep_their_features(n: int, kept: set[str]) -> None:
    """Layers of one pass count once and stay together."""
    stored = [
        stored_features(key, layer, n_images, created)
        for key, n_images, created in (("older", 3, 1), ("old", 10, 2), ("new", 6, 3))
        for layer in ("blocks.0", "norm")
    ]
    doomed = surplus_features(stored, n)
    left = {one.recipe["input"]["images"] for one in stored if one not in doomed}
    assert left == kept
    assert len(doomed) == 2 * (3 - len(kept))


def stored_features(images: str, layer: str, n_images: int, hour: int) -> Stored:
    recipe = {
        "subject": {"weights": "w", "layer": layer},
        "input": {"images": images, "n_images": n_images},
    }
    place = Location(f"/store/features/{images}-{layer}")
    created = datetime(2026, 1, 1, hour, tzinfo=UTC).isoformat()
    return Stored(place, "features", f"{images}-{layer}", created, {}, recipe)


def test_what_was_made_for_nothing_is_unreferenced(request_: ScoreRequest, store: Store) -> None:
    """A run that was given up after the components leaves features, moments and components."""
    head = next(p for p in store.products("heads") if "norm" in p.slug)
    scores = store.product(head.recipe["scores"])
    store.delete(head)
    assert not choose(store, Retention(unreferenced=True, older_than=NOW)).choices
    store.delete(scores)
    made_for_it = {p.address for p in store.products() if p.kind != "images" and "norm" in p.slug}
    chosen = choose(store, Retention(unreferenced=True, older_than=NOW))
    assert set(paths(chosen)) == made_for_it
    before = contents(store)
    clean(store, chosen)
    run_stages(request_)
    assert before.items() <= contents(store).items()


def test_young_products_and_their_inputs_are_spared(store: Store) -> None:
    for product in (*store.products("heads"), *store.products("scores")):
        store.delete(product)
    chosen = choose(store, Retention(unreferenced=True))
    assert chosen.choices == ()
    n = len([p for p in store.products() if p.kind not in ("images", "checkpoints")])
    assert f"{n} unreferenced products" in chosen.spared[0]
    # Features of days ago that young components were made from are wanted as well.
    for product in store.products("features"):
        created = (datetime.now(UTC) - timedelta(days=3)).isoformat()
        record = encode_record({**product.record, "created": created})
        (product.location / "record.json").write_bytes(record)
    assert choose(store, Retention(unreferenced=True)).choices == ()


def test_kinds_of_later_versions_are_roots() -> None:
    day = datetime(2020, 1, 1, tzinfo=UTC).isoformat()
    pca, moments = "a" * 64, "b" * 64
    stored = [
        Stored(Location("/s/pca/x"), "pca", pca, day, {}, {"moments": [moments]}),
        Stored(Location("/s/moments/x"), "moments", moments, day, {}, {}),
    ]
    assert set(unreferenced(stored, NOW)[0]) == set(stored)
    audit = Stored(Location("/s/audits/x"), "audits", "c" * 64, day, {}, {"of": {"basis": pca}})
    assert unreferenced([*stored, audit], NOW) == ({}, [])


def test_an_older_manifest_goes_once_a_newer_one_has_its_segments(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    run_stages(request_)  # indexes the folder of this test
    write_photographs(Path(request_.images), 3, first=50)
    run_stages(request_)
    old, new = sorted(store.products("images"), key=lambda p: len(p.recipe["segments"]))
    rule = Retention(unreferenced=True, older_than=NOW)
    # Both were published within a second or so: told apart by the record.
    record = encode_record({**new.record, "created": "2099-01-01T00:00:00+00:00",
                            "facts": {**new.facts, "folder": old.facts["folder"]}})  # fmt: skip
    (new.location / "record.json").write_bytes(record)
    assert paths(choose(store, rule)) == [old.address]
    assert "newer manifest" in choose(store, rule).choices[0].reason
    clean(store, choose(store, rule))
    forwards.calls.clear()
    for number in range(50, 53):
        (Path(request_.images) / f"{number:04d}.png").unlink()
    assert all(row["cached"] for row in run_stages(request_))
    assert not forwards.calls


def test_a_manifest_whose_segments_are_nowhere_else_stays(
    made: ScoreRequest, request_: ScoreRequest, store: Store
) -> None:
    """After a small sample, the whole folder must still be cut as it was."""
    same_folder = request_.model_copy(update={"images": made.images})
    run_stages(other(same_folder, max_images=5, layers="norm"))
    assert len(store.products("images")) == 2
    assert not choose(store, Retention(unreferenced=True, older_than=NOW)).choices


def test_unfinished_work_is_told_with_its_blocks(store: Store) -> None:
    attempt = give_up(store, synthetic(store), 3)
    chosen = choose(store, Retention())
    by_path = {choice.path: choice for choice in chosen.choices}
    name = f"features/{attempt.address.name}"
    assert set(by_path) == {f"{name}/{attempt.location.name}", f"{name}/recipe.json"}
    found = by_path[f"{name}/{attempt.location.name}"]
    assert "3 finished blocks" in found.reason
    assert choose(store, Retention(abandoned=False)).choices == ()
    clean(store, chosen)
    assert not Path(attempt.address.url).exists()


def test_nothing_of_a_checkpoint_that_is_worked_on_is_touched(store: Store, hold) -> None:
    lease = hold(store.products("heads")[0].location)
    chosen = choose(store, EVERYTHING)
    assert chosen.choices == ()
    assert any("are being made" in sentence for sentence in chosen.spared)
    lease.release()
    assert {path.split("/")[0] for path in paths(choose(store, EVERYTHING))} == {"features"}


def test_another_checkpoint_is_cleaned_meanwhile(
    request_: ScoreRequest, store: Store, hold, tmp_path: Path
) -> None:
    second = request_.model_copy(
        update={"checkpoint": str(write_checkpoint(tmp_path / "second", seed=1))}
    )
    run_stages(second)
    digests = {p.facts["asked"]: p.facts["digest"] for p in store.products("checkpoints")}
    first_digest = digests[str(Path(request_.checkpoint).resolve())]
    head = next(
        p for p in store.products("heads") if p.recipe["subject"]["weights"] == first_digest
    )
    hold(head.location)
    deleted = sweep(store, Retention(keep_features=0))
    left = {p.recipe["subject"]["weights"] for p in store.products("features")}
    assert deleted
    assert left == {first_digest}


def test_what_is_taken_up_meanwhile_is_left(store: Store, hold) -> None:
    attempt = give_up(store, synthetic(store), 1)
    chosen = choose(store, EVERYTHING)
    feature = store.products("features")[0]
    hold(feature.location)
    hold(attempt.address)
    deleted, left = clean(store, chosen)
    assert set(left) == {c.path for c in chosen.choices if c not in deleted}
    assert "is being worked on" in left[feature.address]
    assert attempt.location.exists()
    assert store.product(feature.address) == feature


def test_what_is_referenced_is_not_guessed(store: Store) -> None:
    pca = store.products("pca")[0]
    (pca.location / "recipe.json").delete()
    with pytest.raises(DamagedProductError, match=f"{pca.address}.*or leave out --unreferenced"):
        choose(store, EVERYTHING)
    chosen = choose(store, Retention(keep_features=0))
    assert chosen.choices
    assert "1 products cannot be read" in chosen.spared[0]


def test_a_bucket(made: ScoreRequest) -> None:
    import fsspec

    storage = fsspec.filesystem("memory")
    storage.put(made.options.store, "/clean-bucket", recursive=True)
    store = Store("memory://clean-bucket")
    deleted = sweep(store, EVERYTHING)
    assert len(deleted) == 6
    assert not store.products("features")
    assert store.products("heads")
    assert not verify(store, workers=2).damaged


@pytest.mark.parametrize("link", ["kind", "product"])
def test_nothing_outside_of_the_store_is_deleted(store: Store, tmp_path: Path, link: str) -> None:
    """Links in a store that was handed over lead out of it; they are named and left."""
    product = store.products("features")[0]
    place = Path(product.location.url if link == "product" else product.location.parent.url)
    outside = place.rename(tmp_path / "outside")
    place.symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    deleted, left = clean(store, choose(store, EVERYTHING))
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    path = f"features/{product.location.name}"
    assert path not in {choice.path for choice in deleted}
    assert "is a symbolic link, which is not followed" in left[path]
