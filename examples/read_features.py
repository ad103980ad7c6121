"""Open stored features with xarray: named axes, read chunk by chunk.

    python examples/read_features.py STORE

prints, for every layer in a store, how much of the variance the mean token of each position
explains: what a code of position alone would explain. Needs ``pip install xarray``.
"""

import sys
from pathlib import Path

import xarray as xr

from soapworks.storage_schemas.store import Store


def main(url: Path) -> None:
    """Print a line per layer and segment of real images."""
    for product in Store(url).products("features"):
        if product.recipe["input"]["domain"] != "real":
            continue
        data = xr.open_zarr(product.data.local_path / "arrays.zarr", consolidated=False)
        tokens = data.features.astype("float64")
        by_position = tokens.mean("image").var(["row", "column"]).sum("channel")
        total = tokens.var(["image", "row", "column"]).sum("channel")
        layer = product.recipe["subject"]["layer"]
        print(f"{layer:10} {dict(tokens.sizes)} position {float(by_position / total):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example/store"))
