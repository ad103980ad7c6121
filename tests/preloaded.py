"""Imports all that a run needs, so that children forked from here are there at once.

Imports and nothing that runs: no threads, no event loop, no file system of fsspec may exist
before the fork.
"""

import gc

import aiobotocore.session  # type: ignore[import-untyped]
import dask.threaded
import distributed
import pyarrow.dataset
import pyarrow.pandas_compat
import pyarrow.parquet
import s3fs
import scipy.fft
import scipy.linalg
import scipy.special
import timm
import torchvision
import zarr.storage

import soapworks.backbones
import soapworks.backbones.backbone
import soapworks.backbones.digest
import soapworks.backbones.files.unwrapping
import soapworks.images.reading
import soapworks.synthesis.images
import soapworks.tasks.run
import tests.faults.child
import tests.storage_schemas.toys
import tests.tasks.conftest

__all__ = [
    "aiobotocore",
    "dask",
    "distributed",
    "pyarrow",
    "s3fs",
    "scipy",
    "soapworks",
    "tests",
    "timm",
    "torchvision",
    "zarr",
]

gc.collect()
gc.freeze()  # the collector would write to, and so copy, every page in every child
