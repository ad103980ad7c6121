"""Every damage is found and named; what is mended has the bytes of before."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from soapworks.errors import DamagedProductError, MissingProductError
from storage_schemas.leases import acquire
from storage_schemas.store import Product, Store
from tasks import fit_pca
from tasks.events import Event, Notice, StageAdvanced, StageStarted, listening
from tasks.repair import Repair, repair
from tasks.request import ScoreRequest, plan_of
from tasks.settings import RunOptions, ScoreSettings
from tasks.verify import Verification, verify
from tests.small import write_photographs
from tests.tasks.conftest import Forwards, run_stages
from tests.tasks.test_resume import contents

KINDS = ("checkpoints", "images", "features", "moments", "pca", "responses", "scores", "heads")


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreRequest:
    folder = tmp_path_factory.mktemp("verify")
    request = ScoreRequest(
        checkpoint=str(checkpoint),
        images=str(write_photographs(folder / "photographs", 10)),
        settings=ScoreSettings(layers="norm", synthetic_images=6, block_images=4, segment_images=8),
        options=RunOptions(store=str(folder / "store"), device="cpu", batch_size=4, workers=2),
    )
    run_stages(request)
    return request


@pytest.fixture
def request_(made: ScoreRequest, tmp_path: Path) -> ScoreRequest:
    """A finished run, with a store of its own that a test may damage."""
    shutil.copytree(made.options.store, tmp_path / "store")
    options = made.options.model_copy(update={"store": str(tmp_path / "store")})
    return made.model_copy(update={"options": options})


@pytest.fixture
def store(request_: ScoreRequest) -> Store:
    return request_.store()


def other(request: ScoreRequest, **settings: object) -> ScoreRequest:
    return request.model_copy(update={"settings": request.settings.model_copy(update=settings)})


def one(store: Store, kind: str) -> Product:
    return max(store.products(kind), key=lambda product: len(product.files))


def path_of(product: Product, name: str) -> Path:
    return Path(product.data.url) / name


def shard(product: Product) -> str:
    return next(name for name in product.files if "/c/" in name)


def flip(path: Path, at: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= mask
    path.write_bytes(data)


def check(store: Store, what: str | None = None) -> Verification:
    return verify(store, what, workers=2)


def mend(store: Store) -> list[Repair]:
    return repair(store, check(store).damaged, memory=1 << 30, workers=2)


def named(found: Verification) -> set[str]:
    return {f"{one.address}/{d.path}" for one in found.damaged for d in one.damages}


def test_a_whole_store(store: Store) -> None:
    found = check(store)
    assert found.damaged == found.unnamed == found.later == ()
    products = store.products()
    assert found.n_products == len(products)
    assert found.n_files == sum(len(product.files) for product in products)
    on_disk = [p for p in Path(store.url).rglob("*") if "attempt-" in str(p) and p.is_file()]
    assert found.n_bytes == sum(path.stat().st_size for path in on_disk)


def every_file(store: Store) -> Iterator[tuple[str, Path]]:
    """Yield address and path of one file of every sort in a store."""
    seen = set()
    for path in sorted(Path(store.url).rglob("*")):
        if path.is_file():
            kind, name, *rest = path.relative_to(store.url).parts
            sort = (kind, len(rest), path.name if "." in path.name else path.parts[-3])
            if sort not in seen:
                seen.add(sort)
                yield f"{kind}/{name}", path


def test_a_flipped_bit_is_found_in_every_file(store: Store) -> None:
    rng = np.random.default_rng(0)
    sorts = list(every_file(store))
    assert {address.split("/")[0] for address, _ in sorts} == set(KINDS)
    assert len(sorts) >= 40
    for address, path in sorts:
        whole = path.read_bytes()
        flip(path, int(rng.integers(len(whole))), 1 << int(rng.integers(8)))
        found = check(store, address)
        relative = str(path.relative_to(store.url))
        assert named(found) == {relative}, (relative, found)
        path.write_bytes(whole)
    assert not check(store).damaged


def test_every_byte_of_a_record_counts(store: Store) -> None:
    product = one(store, "scores")
    record = Path(product.location.url) / "record.json"
    whole = record.read_bytes()
    number = whole.index(b'"format": 1') + len(b'"format": ')
    for at in (number, *range(0, len(whole), 4)):
        # Also what stays readable JSON: spaces for line ends, another number of the format.
        data = bytearray(whole)
        data[at] = ord(" ") if data[at] == ord("\n") else data[at] ^ 2
        record.write_bytes(data)
        assert check(store, product.address).damaged, at


def test_a_missing_file_is_found_in_every_product(store: Store) -> None:
    for kind in KINDS:
        product = one(store, kind)
        for name in product.files:
            path = path_of(product, name)
            path.rename(path.with_name("away"))
            found = check(store, kind)
            (path.with_name("away")).rename(path)
            assert named(found) == {f"{product.address}/{product.data.name}/{name}"}
            assert found.damaged[0].damages[0].reason == "is missing"


def test_a_missing_recipe_is_found(store: Store) -> None:
    product = one(store, "pca")
    (Path(product.location.url) / "recipe.json").unlink()
    assert named(check(store)) == {f"{product.address}/recipe.json"}


def test_a_file_that_was_cut_short_is_told_with_both_sizes(store: Store) -> None:
    product = one(store, "moments")
    path = path_of(product, shard(product))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = check(store, product.key[:8]).damaged
    assert finding.damages[0].reason == f"has {size - 1} bytes instead of {size}"


def test_one_product_by_key_and_one_kind(store: Store) -> None:
    product = one(store, "features")
    flip(path_of(product, shard(product)), 50)
    assert check(store, product.key).n_products == 1
    assert len(check(store, "features").damaged) == 1
    assert not check(store, "heads").damaged
    with pytest.raises(MissingProductError, match="No product 'abcdef'"):
        check(store, "abcdef")


def test_a_damaged_record_is_found_by_key_and_address(store: Store) -> None:
    product = one(store, "heads")
    flip(Path(product.location.url) / "record.json", 3)
    for what in (product.key, product.key[:6], product.address, product.location.url):
        (finding,) = check(store, what).damaged
        assert (finding.address, finding.product) == (product.address, None)


def test_what_no_record_names_is_told_and_is_no_damage(store: Store) -> None:
    head, features = one(store, "heads"), one(store, "features")
    (Path(head.location.url) / "attempt-0123456789ab").mkdir()
    path_of(head, "../attempt-0123456789ab/half").write_bytes(b"12345")
    path_of(features, "notes.txt").write_bytes(b"123")
    (Path(store.url) / "scores" / "stray").write_bytes(b"12")
    found = check(store)
    assert not found.damaged
    assert {(u.path, u.n_files, u.n_bytes) for u in found.unnamed} == {
        (f"{head.address}/attempt-0123456789ab", 1, 5),
        (f"{features.address}/{features.data.name}/notes.txt", 1, 3),
        ("scores/stray", 1, 2),
    }
    Path(features.location.url, "record.json").unlink()
    assert f"{features.address}/{features.data.name}" in {u.path for u in check(store).unnamed}


def test_work_in_progress_is_not_told(store: Store) -> None:
    head = one(store, "heads")
    (Path(head.location.url) / "attempt-0123456789ab").mkdir()
    path_of(head, "../attempt-0123456789ab/half").write_bytes(b"12345")
    lease = acquire(head.location, 60)
    assert lease is not None
    try:
        assert check(store).unnamed == ()
    finally:
        lease.release()


def test_progress_is_told_in_bytes(store: Store) -> None:
    events: list[Event] = []
    with listening(events.append):
        found = check(store)
    (started,) = [e for e in events if isinstance(e, StageStarted)]
    assert (started.total, started.unit) == (found.n_bytes, "bytes")
    assert sum(e.n for e in events if isinstance(e, StageAdvanced)) == found.n_bytes


def test_files_are_digested_piece_by_piece(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of any size is never read whole."""
    from storage_schemas.disk import Disk

    def read(self: Disk, path: str, limit: int | None = None) -> bytes:
        assert path.endswith(".json"), path
        return Path(path).read_bytes()

    monkeypatch.setattr(Disk, "read", read)
    assert not check(store).damaged


def test_a_product_that_is_deleted_meanwhile_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = one(store, "heads")
    original = Product.check

    def check_one(self: Product, path: str) -> object:
        store.delete(self)
        return original(self, path)

    monkeypatch.setattr(Product, "check", check_one)
    assert not check(store, product.key).damaged


@pytest.mark.parametrize("kind", ["moments", "pca", "responses", "scores", "heads"])
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
    damaged = [p for p in store.products() if p.kind in KINDS[3:]]
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
    assert sentence.endswith("run soapworks verify --repair.")
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
    with pytest.raises(DamagedProductError, match=rf"^{product.address} is damaged: .*--repair\.$"):
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
    assert message.endswith("is made again")
    assert forwards.n_images == 4
    assert before.items() <= contents(store).items()


def test_a_damaged_manifest_and_identity_are_made_again(
    request_: ScoreRequest, store: Store, forwards: Forwards
) -> None:
    for kind in ("images", "checkpoints"):
        product = one(store, kind)
        flip(path_of(product, next(iter(product.files))), 60)
        plan_of.cache_clear()  # as in a new process
        with pytest.raises(DamagedProductError, match=r"run soapworks verify --repair\.$"):
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
    from storage_schemas.disk import Disk

    def digest(self: Disk, path: str) -> tuple[int, str]:
        raise PermissionError(13, "Permission denied", path)

    product = one(store, "heads")
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "digest", digest)
        (finding,) = check(store, product.key).damaged
        (repaired,) = repair(store, [finding], memory=1 << 30, workers=1)
    assert repaired.outcome == "left"
    assert not check(store).damaged


def test_a_bucket(made: ScoreRequest) -> None:
    """The same on object storage, here in memory."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.rm("/verify-bucket", recursive=True) if files.exists("/verify-bucket") else None
    files.put(made.options.store, "/verify-bucket", recursive=True)
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
