"""A record that forgets a file, arrays of other shapes, tables of other lengths: damage, early."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soapworks.errors import DamagedProductError, StoreError
from soapworks.storage_schemas.layout.arrays import create_array, read_arrays
from soapworks.storage_schemas.layout.completeness import FILES
from soapworks.storage_schemas.layout.kinds import RECIPES
from soapworks.storage_schemas.layout.manifest import Manifest
from soapworks.storage_schemas.layout.recipes import PcaRecipe, Recipe, Subject
from soapworks.storage_schemas.layout.tables import SCORES, read_scores
from soapworks.storage_schemas.publishing.digests import digest_of
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.publishing.records import encode_record
from soapworks.storage_schemas.store import Store

ARCHIVE = Path(__file__).parents[2] / "fixtures" / "store_0_1.tar.gz"


@pytest.fixture
def old(tmp_path: Path) -> Store:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Store(tmp_path / "stored")


def forge(product: Product, files: dict[str, Any], **fields: Any) -> Product:
    """Put a record with other files and a right checksum in the product's place."""
    record = {**product.record, "files": files, **fields}
    Path(product.location.url, "record.json").write_bytes(encode_record(record))
    return Product(product.key, product.kind, product.location, record)


def recipe_of(product: Product) -> Recipe:
    fields = {name: value for name, value in product.recipe.items() if name != "kind"}
    return RECIPES[product.kind](**fields)


LATER = ("precision", "evaluations")
"""Kinds that version 0.1 did not have."""


@pytest.mark.parametrize("kind", [kind for kind in RECIPES if kind not in LATER])
def test_a_record_that_forgets_a_file_is_damage(old: Store, kind: str) -> None:
    product = old.products(kind)[0]
    recipe, whole = recipe_of(product), product.record["files"]
    needed = [path for path in whole if not path.startswith("parts/")]
    assert needed
    for path in needed:
        forged = forge(product, {name: file for name, file in whole.items() if name != path})
        assert old.find(recipe) is None, path
        assert any(path in str(damage) for damage in forged.missing()), path
        assert any(path in str(damage) for damage in forged.verify()), path
        if kind not in FILES:
            with pytest.raises(DamagedProductError, match="is not in the completion record"):
                forged.open_zarr()
        assert old.abandoned() == []  # what it forgets is not cleaned away
    forge(product, whole)
    assert old.find(recipe) == product


@pytest.mark.parametrize("n_blocks", [None, 0, True, "4", 10**15, [1]])
def test_a_number_of_blocks_that_is_nonsense_is_damage(old: Store, n_blocks: object) -> None:
    product = old.products("responses")[0]
    facts = {**product.facts, "n_blocks": n_blocks}
    forged = forge(product, product.record["files"], facts=facts)
    assert old.find(recipe_of(product)) is None
    assert any("counts/c" in str(damage) for damage in forged.verify())


def test_facts_that_contradict_the_recipe_are_damage(old: Store) -> None:
    product = old.products("features")[0]
    forged = forge(product, product.record["files"], facts={**product.facts, "n_images": 7})
    assert old.find(recipe_of(product)) is None
    assert "7 images" in str(forged.verify()[0])


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("pca", "mean", [10**14]),
        ("pca", "mean", [25]),
        ("pca", "components", [24, 23]),
        ("moments", "scatter", [23, 24]),
        ("responses", "counts", [3, 4, 4, 24]),
        ("responses", "counts", [1, 4, 4, 10**12]),
        ("responses", "n_images", [3]),
        ("features", "features", [10**9, 4, 4, 24]),
        ("features", "features", [8, 4, 4, 23]),
        ("features", "features", [8, 2, 8, 24]),
    ],
)
def test_shapes_are_compared_before_anything_is_read(
    old: Store, kind: str, name: str, shape: list[int]
) -> None:
    product = max(old.products(kind), key=lambda each: each.facts.get("n_images", 0))
    path = f"arrays.zarr/{name}/zarr.json"
    file = Path(product.data.url, path)
    metadata = json.loads(file.read_bytes())
    grid = metadata["chunk_grid"]["configuration"]
    assert len(shape) == len(metadata["shape"])
    metadata["shape"] = shape
    if kind != "features":
        grid["chunk_shape"] = shape  # one chunk, of which the bytes are few
    data = json.dumps(metadata).encode()
    file.write_bytes(data)
    digest = digest_of(data)
    entry = {"bytes": digest.bytes, "sha256": digest.sha256}
    forged = forge(product, {**product.record["files"], path: entry})
    with pytest.raises(DamagedProductError, match=rf"{name} (has|of shape)"):
        read_arrays(forged.open_zarr(), kind)


@pytest.mark.parametrize("lacking", ["mean", "components"])
def test_publishing_requires_every_chunk(tmp_path: Path, lacking: str) -> None:
    subject = Subject(architecture="vit", weights="0" * 64, layer="norm")
    arrays = {
        "count": np.int64(3),
        "mean": np.ones(4),
        "components": np.eye(4),
        "explained_variance": np.ones(4),
    }
    with Store(tmp_path).claim(PcaRecipe(subject=subject, moments=("1" * 64,))) as attempt:
        group = attempt.writer.zarr_group()
        for name, values in arrays.items():
            array = create_array(group, "pca", name, values.shape, values.dtype.name)
            if name != lacking:
                array[...] = values
        with pytest.raises(StoreError, match=rf"{lacking}/c/0\S* is not in .* never written"):
            attempt.publish({"n_components": 4, "n_tokens": 3})


def bomb(n_rows: int) -> bytes:
    """Return a score table of few bytes and many rows."""
    table = pa.table(
        {
            column.name: pa.array(["norm"] * n_rows)
            if column.dtype == "str"
            else pa.array(np.zeros(n_rows, column.dtype))
            for column in SCORES
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_rows_are_counted_before_a_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bomb(5000)
    assert len(read_scores(data)) == len(read_scores(data, n_rows=5000)) == 5000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self: pytest.fail("decoded"))
    with pytest.raises(DamagedProductError, match="5000 rows where it should have 24"):
        read_scores(data, n_rows=24)
    with pytest.raises(DamagedProductError, match="columns"):
        Manifest.from_files(data, data)
