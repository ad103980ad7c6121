"""Stores that somebody tampered with: a clear refusal, and nothing outside is touched."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from soapworks.errors import DamagedProductError, SoapworksError
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.publishing.records import encode_record
from tests.storage_schemas.toys import Toy, get_or_make

SHA256 = "0" * 64


@pytest.fixture
def product(store) -> Product:
    return get_or_make(store, Toy())[0]


def forge(product: Product, **fields: object) -> None:
    """Put a record with a right checksum in the product's place."""
    record = {name: value for name, value in product.record.items() if name != "checksum"}
    Path(product.location.url, "record.json").write_bytes(encode_record({**record, **fields}))


@pytest.mark.parametrize(
    "path",
    ["../../../outside", "/etc/passwd", "a\\b", "a\0b", "", ".", "a//b", "a/../../b", "\ud800"],
)
def test_paths_that_lead_out_are_refused(store, product, path):
    forge(product, files={path: {"bytes": 1, "sha256": SHA256}})
    assert store.find(Toy()) is None
    with pytest.raises(DamagedProductError, match="refused"):
        store.product(product.key)


@pytest.mark.parametrize(
    "fields",
    [
        {"attempt": "../../elsewhere"},
        {"attempt": "attempt-0123456789ab/.."},
        {"attempt": None},
        {"attempt": ["attempt-0123456789ab"]},
        {"key": "0" * 64},
        {"key": 7},
        {"kind": "heads"},
        {"files": []},
        {"files": {"a": None}},
        {"files": {"a": {"bytes": -1, "sha256": SHA256}}},
        {"files": {"a": {"bytes": True, "sha256": SHA256}}},
        {"files": {"a": {"bytes": 1, "sha256": "x"}}},
        {"facts": None},
        {"format": None},
        {"format": "1"},
    ],
    ids=str,
)
def test_records_with_nonsense_are_refused(store, product, fields):
    forge(product, **fields)
    assert store.find(Toy()) is None
    assert store.products() == []
    with pytest.raises(DamagedProductError, match=r"record\.json"):
        store.product(product.address)
    assert get_or_make(store, Toy())[0].verify() == []


def test_a_record_for_a_huge_file_reads_nothing(store, product):
    forge(product, files={"table.txt": {"bytes": 2**62, "sha256": SHA256}})
    assert store.find(Toy()) is None


def test_files_that_the_record_does_not_name_are_not_read(store, product, tmp_path):
    (tmp_path / "secret").mkdir()
    outside = Path(product.data.url, "arrays.zarr/features").rename(tmp_path / "secret/features")
    files = {
        path: file for path, file in product.record["files"].items() if "/features" not in path
    }
    Path(product.data.url, "arrays.zarr/features").symlink_to(outside)
    forge(product, files=files)
    forged = store.find(Toy())
    assert forged is not None
    assert dict(forged.open_zarr().members()) == {}
    assert "features" not in forged.open_zarr()


def test_names_that_are_no_products_are_passed_over(store, product):
    root = Path(store.url)
    (root / "toys" / "README").write_text("hello")
    (root / "toys" / "x-0123456789ab").write_text("a file")
    (root / "toys" / "y-0123456789ab").mkdir()
    (root / "Other kind").mkdir()
    (root / "file").write_text("a file")
    (root / "toys" / "link-0123456789ab").symlink_to("/")
    assert store.products() == [product]
    assert store.unreadable() == []
    assert store.abandoned() == []


def test_random_bytes_in_any_metadata_never_escape(store, product, tmp_path):
    rng = np.random.default_rng(0)
    address = Path(product.location.url)
    targets = [address / "record.json", address / "recipe.json", address / "lease-000001.json"]
    targets.append(Path(product.data.url) / "parts" / "block-1.json")
    whole = {path: path.read_bytes() if path.exists() else b"{}" for path in targets}
    guard = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    for _ in range(150):
        target = targets[rng.integers(len(targets))]
        data = bytearray(whole[target])
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(data) + 1))
            piece = bytes(rng.integers(0, 256, rng.integers(0, 4), dtype=np.uint8))
            data[at : at + int(rng.integers(0, 5))] = piece
        target.write_bytes(data)
        for ask in (
            lambda: store.find(Toy()),
            lambda: store.holder(Toy()),
            lambda: store.products(),
            lambda: store.abandoned(),
            lambda: store.product(product.key).verify(),
            lambda: store.product(product.key).recipe,
        ):
            with contextlib.suppress(SoapworksError):
                ask()
        target.unlink()
        if whole[target] != b"{}":
            target.write_bytes(whole[target])
    assert store.find(Toy()).verify() == []
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == guard


@pytest.mark.parametrize(
    "content",
    [
        {"shape": [10**15, 10**15]},
        {"node_type": "nonsense"},
        {"codecs": [{"name": "nonsense"}]},
        {"data_type": "nonsense"},
        {"zarr_format": 99},
    ],
    ids=str,
)
def test_arrays_with_nonsense_are_refused_when_opened(store, product, content):
    file = Path(product.data.url, "arrays.zarr/zarr.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **content}))
    with contextlib.suppress(DamagedProductError):
        assert "features" in dict(product.open_zarr().members())
