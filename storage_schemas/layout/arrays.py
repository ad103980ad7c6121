"""The registry of every stored array, and the zarr layout it is stored in.

An array is declared here once: its dimensions, its dtypes and what it means. Writing and reading
go through the declaration, so a stored array always has named dimensions (xarray opens it) and a
reader never works on an array of another shape than it believes.

Layout: zarr v3, little endian, no compression (it gains some 8 % on float16 tokens and costs most
of the write speed), a crc32c on every chunk. Features are cut in shards of one block of images,
each of chunks of about 1 MiB; every other array is one chunk per block or one chunk in all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.array_spec import ArrayConfigParams

from soapworks.errors import DamagedProductError, InputError, SoapworksError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 1 << 20
"""Aim for the size of an inner chunk, bytes: about one image to a few images."""

WRITING: ArrayConfigParams = {"write_empty_chunks": True}
"""How zarr writes an array, one that was opened again too: all-zero chunks like any other.

A missing file always means damage then.
"""

GROUP = "arrays.zarr"
"""Name of the zarr group inside a product's data."""


@dataclass(frozen=True)
class ArraySpec:
    """Declaration of one stored array."""

    name: str
    """Name of the array within its product's group."""
    dims: tuple[str, ...]
    """Names of the axes, in order; empty for a single number."""
    dtypes: tuple[str, ...]
    """Permitted dtypes, NumPy names."""
    meaning: str
    """What the numbers are, with their unit where they have one."""
    by_block: bool = False
    """Whether the first axis is written block by block: one chunk (or shard) a block."""
    optional: bool = False
    """Whether products may lack it."""


ARRAYS: dict[str, tuple[ArraySpec, ...]] = {
    "features": (
        ArraySpec(
            "features",
            ("image", "row", "column", "channel"),
            ("float16", "float32"),
            "patch tokens at the layer; prefix tokens dropped; rows of patches from the top",
            by_block=True,
        ),
    ),
    "moments": (
        ArraySpec("count", (), ("int64",), "number of tokens"),
        ArraySpec("mean", ("channel",), ("float64",), "mean token"),
        ArraySpec(
            "scatter",
            ("channel", "other_channel"),
            ("float64",),
            "sum over tokens of the outer product of the centred token with itself",
        ),
    ),
    "pca": (
        ArraySpec("count", (), ("int64",), "number of tokens"),
        ArraySpec("mean", ("channel",), ("float64",), "mean token of the real images"),
        ArraySpec(
            "components",
            ("component", "channel"),
            ("float64",),
            "unit eigenvectors of the covariance, by descending eigenvalue",
        ),
        ArraySpec("explained_variance", ("component",), ("float64",), "eigenvalues, divisor n-1"),
    ),
    "responses": (
        ArraySpec(
            "counts",
            ("block", "row", "column", "component"),
            ("int32",),
            "images of the block whose centred token responds positively",
            by_block=True,
        ),
        ArraySpec("n_images", ("block",), ("int32",), "images in the block"),
    ),
}
"""Arrays of every kind of product that holds arrays."""


def array_spec(kind: str, name: str) -> ArraySpec:
    """Return the declaration of an array of a kind of product."""
    return next(spec for spec in ARRAYS[kind] if spec.name == name)


def images_per_chunk(image_bytes: int, block_images: int) -> int:
    """Return how many images share an inner chunk: a divisor of the block, near 1 MiB."""
    wanted = max(1, CHUNK_BYTES // image_bytes)
    return max(n for n in range(1, block_images + 1) if block_images % n == 0 and n <= wanted)


def create_array(
    group: zarr.Group,
    kind: str,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    *,
    block_images: int | None = None,
) -> zarr.Array:
    """Create a declared array, empty.

    Parameters
    ----------
    group
        The product's group, open for writing.
    kind, name
        Which declared array.
    shape, dtype
        Its shape, one length per declared dimension, and one of its declared dtypes.
    block_images
        Images in a block, for arrays that are sharded by blocks of images.

    Raises
    ------
    InputError
        Where shape or dtype do not agree with the declaration.
    """
    spec = array_spec(kind, name)
    if len(shape) != len(spec.dims) or dtype not in spec.dtypes:
        raise InputError(
            f"{kind}/{name} is declared as {spec.dims} of {' or '.join(spec.dtypes)}; "
            f"got shape {shape} of {dtype}"
        )
    chunks = tuple(max(1, n) for n in shape)
    shards = None
    if spec.by_block and block_images is not None:
        shards = (block_images, *chunks[1:])
        image_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        chunks = (images_per_chunk(image_bytes, block_images), *chunks[1:])
    elif spec.by_block:
        chunks = (1, *chunks[1:])
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=Crc32cCodec(),
        fill_value=0,
        dimension_names=spec.dims or None,
        attributes={"meaning": spec.meaning},
        config=WRITING,
    )


def write_arrays(group: zarr.Group, kind: str, arrays: Mapping[str, Any]) -> None:
    """Write all arrays of a small product at once.

    Raises
    ------
    InputError
        Where names, shapes or dtypes do not agree with the declarations of the kind.
    """
    declared = {spec.name for spec in ARRAYS[kind]}
    if set(arrays) != declared:
        raise InputError(f"{kind} holds {sorted(declared)}; got {sorted(arrays)}")
    for name, values in arrays.items():
        values = np.asarray(values)
        create_array(group, kind, name, values.shape, values.dtype.name)[...] = values


class StoredArray:
    """A declared array of a product; what it gives back is what was written.

    Parameters
    ----------
    array
        The array in the store, with checksums on its chunks.
    """

    def __init__(self, array: zarr.Array) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self._array.shape

    @property
    def dtype(self) -> "np.dtype[Any]":
        """NumPy dtype of the values."""
        return self._array.dtype

    def __getitem__(self, selection: Any) -> "NDArray[Any]":
        """Return some values, indexed as a NumPy array by slices and integers.

        Raises
        ------
        DamagedProductError
            Where the bytes of a chunk are gone or not those that were written.
        """
        try:
            return np.asarray(self._array[selection])
        except (SoapworksError, MemoryError):
            raise
        except Exception as error:  # whatever a decoder says of bytes that are not its own
            reason = str(error)
            if "checksum" in reason:
                reason = "a chunk's checksum differs"
            name = self._array.name.strip("/")
            raise _unreadable(self._array, name, reason) from error


def open_array(group: zarr.Group, kind: str, name: str) -> StoredArray:
    """Return a declared array of a product, checked against its declaration.

    Raises
    ------
    DamagedProductError
        Where the array is missing or is not what the declaration says.
    """
    spec = array_spec(kind, name)
    try:
        array = group.get(name)
    except (SoapworksError, MemoryError):
        raise
    except Exception as error:  # whatever zarr says of metadata that are none
        raise _unreadable(group, name, str(error)) from error
    if not isinstance(array, zarr.Array):
        raise DamagedProductError.of(_place(group), f"it has no array {name!r}")
    dims = tuple(array.metadata.dimension_names or ())  # type: ignore[union-attr]
    if dims != spec.dims or array.dtype.name not in spec.dtypes:
        raise DamagedProductError.of(
            _place(array),
            f"{name} has dimensions {dims} of {array.dtype.name} where the format has {spec.dims} "
            f"of {' or '.join(spec.dtypes)}",
        )
    _check_lengths(array, spec, getattr(group.store_path.store, "lengths", {}))
    n_bytes = getattr(group.store_path.store, "n_bytes", None)
    if n_bytes is not None and array.nbytes > (stored := n_bytes(f"{name}/c")):
        raise DamagedProductError.of(
            _place(array), f"{name} of shape {array.shape} does not fit its {stored} bytes"
        )
    return StoredArray(array)


def _check_lengths(
    array: "zarr.Array | StoredArray", spec: ArraySpec, lengths: Mapping[str, int]
) -> None:
    """Compare an array's axes with lengths that are known, before anything is allocated."""
    for axis, length in zip(spec.dims, array.shape, strict=True):
        known = lengths.get(axis.removeprefix("other_"), length)
        if length != known:
            inner = array._array if isinstance(array, StoredArray) else array
            raise DamagedProductError.of(
                _place(inner), f"{spec.name} has {length} along {axis} where it should have {known}"
            )


def _unreadable(node: zarr.Group | zarr.Array, name: str, reason: str) -> DamagedProductError:
    words = " ".join(reason.split())[:200].rstrip(".")
    return DamagedProductError.of(_place(node), f"the array {name!r} cannot be read ({words})")


def _place(node: zarr.Group | zarr.Array) -> str:
    return getattr(node.store_path.store, "address", str(node.store_path))


def read_arrays(group: zarr.Group, kind: str) -> dict[str, "NDArray[Any]"]:
    """Read all arrays of a small product, checked against their declarations and each other.

    Raises
    ------
    DamagedProductError
        Where one is missing or damaged, or their shapes do not agree.
    """
    arrays, lengths = {}, dict[str, int]()
    for spec in ARRAYS[kind]:
        if spec.optional and spec.name not in group:
            continue
        arrays[spec.name] = array = open_array(group, kind, spec.name)
        _check_lengths(array, spec, lengths)
        lengths |= {
            axis.removeprefix("other_"): length
            for axis, length in zip(spec.dims, array.shape, strict=True)
        }
    return {name: array[...] for name, array in arrays.items()}
