"""What is damaged is mended with the bytes of before, or a run says what to do."""

from pathlib import Path

import pytest

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.leasing.leases import acquire
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Event, Notice, listening
from soapworks.tasks.inputs.checkpoint import read_identity
from soapworks.tasks.maintenance.repair import repair
from soapworks.tasks.plan.request import ScoreRequest, plan_of
from soapworks.tasks.stages import fit_pca
from tests.tasks.conftest import Forwards, run_stages
from tests.tasks.damage import check, flip, mend, named, one, other, path_of, shard
from tests.tasks.test_resume import contents

MADE = ("moments", "pca", "responses", "scores", "heads")


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("harm", ["bit", "gone", "record"])
def test_what_the_store_suffices_for_is_made_again(
    store: Store, forwards: Forwards, kind: str, harm: str
) -> None:
    before = contents(store)
    product = one(store, kind)
    if harm == "bit":
        flip(path_of(product, shard(product) if kind < "s" and kind != "heads" else
                     next(iter(product.files))), 30)  # fmt: skip
    elif harm == "gone":
        path_of(product, next(iter(product.files))).unlink()
    else:
        flip(Path(product.location.url) / "record.json", 40)
    (repaired,) = mend(store)
    assert (repaired.address, repaired.outcome) == (product.address, "remade")
    assert contents(store) == before
    assert check(store).damaged == check(store).unnamed == ()
    assert not forwards.calls


def test_everything_but_features_at_once(store: Store, forwards: Forwards) -> None:
    before = contents(store)
    damaged = [p for p in store.products() if p.kind in MADE]
    for product in damaged:
        path_of(product, max(product.files, key=lambda name: product.files[name].bytes)).unlink()
    assert {r.outcome for r in mend(store)} == {"remade"}
    assert contents(store) == before
    assert not forwards.calls


def test_damaged_features_cost_their_lost_blocks_alone(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    before = contents(store)
    product = one(store, "features")  # 8 photographs in 2 blocks
    flip(path_of(product, shard(product)), 100)
    (repaired,) = mend(store)
    assert repaired.outcome == "withdrawn"
    assert "1 of 2 blocks are lost" in repaired.note
    assert "4 forward passes: soapworks score" in repaired.note
    assert f"--images {request_.images} --layers norm --store {store.url}" in repaired.note
    run_stages(request_)
    assert not forwards.calls  # the head is there: nobody needs the features
    run_stages(other(request_, moments_precision="float64"))
    assert forwards.n_images == 4
    assert before.items() <= contents(store).items()


def test_a_run_that_reads_damaged_features_says_what_to_do(
    request_: ScoreRequest, store: Store
) -> None:
    product = one(store, "features")
    flip(path_of(product, shard(product)), 100)
    wanted = other(request_, moments_precision="float64")
    with pytest.raises(DamagedProductError) as caught:
        run_stages(wanted)
    sentence = str(caught.value)
    assert product.address in sentence
    assert sentence.endswith("run soapworks verify --repair")
    assert sentence.count("damaged") == 1
    mend(store)
    run_stages(wanted)
    assert not check(store).damaged


@pytest.mark.parametrize("name", ["recipe.json", "features/zarr.json", "features/c/1/0/0/0"])
def test_whatever_of_the_features_is_damaged_a_run_names_it(
    request_: ScoreRequest, store: Store, name: str
) -> None:
    product = one(store, "features")
    if name == "recipe.json":
        path = Path(product.location.url) / name
    else:
        path = path_of(product, f"arrays.zarr/{name}")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"8", b"9", 1) if b"8" in data else data[::-1])
    wanted = other(request_, moments_precision="float64")
    with pytest.raises(DamagedProductError, match=rf"^{product.address} is damaged: .*--repair$"):
        run_stages(wanted)
    mend(store)
    run_stages(wanted)


def test_a_run_says_that_it_makes_a_damaged_product_again(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    before = contents(store)
    product = one(store, "features")
    path_of(product, shard(product)).unlink()
    events: list[Event] = []
    with listening(events.append):
        run_stages(other(request_, moments_precision="float64"))
    (message,) = [e.message for e in events if isinstance(e, Notice)]
    assert product.key[:12] in message
    assert f"{shard(product)} is missing" in message
    assert message.endswith("is being rebuilt")
    assert forwards.n_images == 4
    assert before.items() <= contents(store).items()


def test_a_damaged_manifest_and_identity_are_made_again(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    for kind in ("images", "checkpoints"):
        product = one(store, kind)
        flip(path_of(product, next(iter(product.files))), 60)
        plan_of.cache_clear()  # as in a new process
        with pytest.raises(DamagedProductError, match=r"run soapworks verify --repair$"):
            run_stages(request_)
        (repaired,) = mend(store)
        assert repaired.outcome == "withdrawn"
        (row,) = run_stages(request_)
        assert row["cached"]
    assert not forwards.calls


def test_moments_without_features_are_withdrawn_and_named(store: Store) -> None:
    for product in store.products("features"):
        store.delete(product)
    product = one(store, "moments")
    flip(path_of(product, shard(product)), 3)
    (repaired,) = mend(store)
    assert repaired.outcome == "withdrawn"
    assert "features" in repaired.note
    assert "soapworks score" in repaired.note


def test_what_comes_out_otherwise_is_carried_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Components of another machine differ by rounding; nobody may mix them with old counts."""
    pca = one(store, "pca")
    original = fit_pca.fit

    def rounded(moments: object) -> object:
        found = original(moments)
        return type(found)(found.mean, -found.components, found.explained_variance, found.count)

    old = {p.address: p.record["files"] for p in store.products()}
    flip(path_of(pca, shard(pca)), 3)
    monkeypatch.setattr(fit_pca, "fit", rounded)
    outcomes = {r.address: r.outcome for r in mend(store)}
    assert {address.split("/")[0] for address in outcomes} == {
        "pca", "responses", "scores", "heads"
    }  # fmt: skip
    assert set(outcomes.values()) == {"remade"}
    # Counts of the mirrored components are the complements: each product really is new.
    new = {p.address: p.record["files"] for p in store.products()}
    assert all(new[address] != old[address] for address in outcomes)
    assert not check(store).damaged


def test_what_is_worked_on_is_left(store: Store) -> None:
    product = one(store, "heads")
    flip(path_of(product, "head.safetensors"), 3)
    lease = acquire(product.location, 60)
    assert lease is not None
    try:
        (repaired,) = mend(store)
    finally:
        lease.release()
    assert repaired.outcome == "left"
    assert "is being worked on" in repaired.note


def test_what_cannot_be_reached_is_not_taken_for_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soapworks.storage_schemas.locations.disk import Disk

    def digest(self: Disk, path: str) -> tuple[int, str]:
        raise PermissionError(13, "Permission denied", path)

    product = one(store, "heads")
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "digest", digest)
        (finding,) = check(store, product.key).damaged
        (repaired,) = repair(store, [finding], memory=64 << 30, workers=1)
    assert repaired.outcome == "left"
    assert not check(store).damaged


def test_a_bucket(finished: ScoreRequest) -> None:
    """The same on object storage, here in memory."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.rm("/verify-bucket", recursive=True) if files.exists("/verify-bucket") else None
    files.put(finished.options.store, "/verify-bucket", recursive=True)
    store = Store("memory://verify-bucket")
    assert not check(store).damaged
    product = one(store, "pca")
    data = bytearray((product.data / shard(product)).read_bytes())
    data[5] ^= 1
    (product.data / shard(product)).write_bytes(bytes(data))
    assert named(check(store)) == {f"{product.address}/{product.data.name}/{shard(product)}"}
    (repaired,) = mend(store)
    assert repaired.outcome == "remade"
    assert not check(store).damaged


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{}", b"[]", b"{"])
def test_an_identity_that_cannot_be_understood_is_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    (product,) = store.products("checkpoints")
    monkeypatch.setattr(Product, "read", lambda *_: data)
    with pytest.raises(DamagedProductError, match="is no identity of a checkpoint"):
        read_identity(product)


@pytest.mark.parametrize("kind", ["pca", "scores", "heads"])
def test_a_run_reuses_only_what_it_has_compared(
    request_: ScoreRequest, store: Store, forwards: Forwards, kind: str
) -> None:
    """One flipped bit of the same length: rebuilt with a notice, and not called cached."""
    before, product = contents(store), one(store, kind)
    name = max(product.files, key=lambda name: product.files[name].bytes)
    flip(path_of(product, name), product.files[name].bytes // 2)
    for later in ("scores", "heads")[("pca", "scores", "heads").index(kind) :]:
        store.delete(one(store, later))  # so that what is damaged is wanted
    events: list[Event] = []
    with listening(events.append):
        (row,) = run_stages(request_)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any(f"{product.key[:12]}) was damaged" in message for message in notices)
    assert not row["cached"]
    assert contents(store) == before
    assert not forwards.calls
    assert not check(store).damaged
