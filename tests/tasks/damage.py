"""Damage done to a store, and what is found of it."""

from pathlib import Path

from soapworks.storage_schemas.store import Product, Store
from soapworks.tasks.maintenance.repair import Repair, repair
from soapworks.tasks.maintenance.verify import Verification, verify
from soapworks.tasks.plan.request import ScoreRequest


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
    return repair(store, check(store).damaged, memory=64 << 30, workers=2)


def named(found: Verification) -> set[str]:
    return {f"{one.address}/{d.path}" for one in found.damaged for d in one.damages}
