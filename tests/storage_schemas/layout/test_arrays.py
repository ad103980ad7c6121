"""Stored arrays are what the registry says, for us and for xarray."""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from soapworks.errors import DamagedProductError, InputError
from soapworks.storage_schemas.layout.arrays import (
    ARRAYS,
    create_array,
    images_per_chunk,
    open_array,
    read_arrays,
    write_arrays,
)

PCA = {
    "count": np.int64(9),
    "mean": np.arange(3.0),
    "components": np.eye(3),
    "explained_variance": np.array([3.0, 2.0, 0.0]),
}


def write_features(folder: Path, n: int = 10, block: int = 4) -> np.ndarray:
    group = zarr.open_group(folder, mode="w")
    array = create_array(group, "features", "features", (n, 3, 2, 5), "float16", block_images=block)
    values = np.random.default_rng(0).standard_normal((n, 3, 2, 5)).astype(np.float16)
    for start in range(0, n, block):
        array[start : start + block] = values[start : start + block]
    return values


def test_features_open_in_xarray_with_named_dimensions(tmp_path: Path) -> None:
    values = write_features(tmp_path)
    dataset = xarray.open_zarr(tmp_path, consolidated=False)
    assert dataset.features.dims == ("image", "row", "column", "channel")
    np.testing.assert_array_equal(dataset.features.values, values)
    assert "patch tokens" in dataset.features.attrs["meaning"]


def test_one_shard_per_block(tmp_path: Path) -> None:
    write_features(tmp_path)
    chunks = tmp_path / "features" / "c"
    files = sorted(str(p.relative_to(chunks)) for p in chunks.rglob("*") if p.is_file())
    assert files == ["0/0/0/0", "1/0/0/0", "2/0/0/0"]


def test_zeros_are_written_too(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    create_array(group, "features", "features", (4, 1, 1, 2), "float32", block_images=4)[...] = 0
    assert (tmp_path / "features/c/0/0/0/0").is_file()


def test_a_flipped_byte_is_found_on_reading(tmp_path: Path) -> None:
    write_features(tmp_path)
    shard = tmp_path / "features/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(bytes(data))
    array = open_array(zarr.open_group(tmp_path, mode="r"), "features", "features")
    assert np.isfinite(array[:4].astype(np.float32)).all()
    with pytest.raises(DamagedProductError, match="checksum"):
        array[4:8]


def test_small_products_come_back(tmp_path: Path) -> None:
    write_arrays(zarr.open_group(tmp_path, mode="w"), "pca", PCA)
    found = read_arrays(zarr.open_group(tmp_path, mode="r"), "pca")
    for name, values in PCA.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    "change",
    [{"mean": np.zeros((3, 3))}, {"mean": np.zeros(3, np.float32)}, {"another": np.zeros(3)}],
)
def test_what_is_not_declared_is_not_written(tmp_path: Path, change: dict) -> None:
    with pytest.raises(InputError, match=r"mean|another"):
        write_arrays(zarr.open_group(tmp_path, mode="w"), "pca", PCA | change)


def test_what_is_not_as_declared_is_not_read(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w")
    group.create_array("mean", data=np.zeros(3))
    with pytest.raises(DamagedProductError, match="dimensions"):
        open_array(group, "pca", "mean")
    with pytest.raises(DamagedProductError, match="no array 'components'"):
        open_array(group, "pca", "components")


@pytest.mark.parametrize(
    ("image_bytes", "block", "expected"),
    [(301_056, 64, 2), (100_000, 64, 8), (55_296, 64, 16), (5 << 20, 64, 1), (10, 6, 6)],
)
def test_chunks_divide_blocks_and_stay_near_a_mebibyte(image_bytes, block, expected) -> None:
    assert images_per_chunk(image_bytes, block) == expected


def test_every_array_has_a_meaning() -> None:
    assert all(spec.meaning for specs in ARRAYS.values() for spec in specs)
