"""Pictures of response rates: the counts over the images, position by position."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.layout.recipes import ResponsesRecipe
from soapworks.storage_schemas.store import Product, Store
from soapworks.tasks.plan.request import ScoreRequest, plan_of
from soapworks.tasks.reports.response_maps import (
    best,
    draw_components,
    map_png,
    response_maps,
    top_components,
)
from tests.tasks.conftest import run_stages
from tests.tasks.scored import digit, publish_responses, subject

SIZES = {"real": [[4, 3], [2]], "synthetic": [[5, 1]]}
"""Images per block of the segments of each domain."""


@pytest.fixture
def counted(tmp_path: Path) -> tuple[dict[str, list[Product]], dict[str, list[np.ndarray]]]:
    """Responses of both domains, and the counts (block, row, column, component) in them."""
    store, rng = Store(tmp_path / "counted"), np.random.default_rng(0)
    products: dict[str, list[Product]] = {}
    counts: dict[str, list[np.ndarray]] = {}
    for domain, segments in SIZES.items():
        for number, sizes in enumerate(segments):
            some = np.stack([rng.integers(0, n + 1, (3, 5, 7)) for n in sizes])
            recipe = ResponsesRecipe(
                subject=subject(1, "norm"), features=digit(number), domain=domain, pca=digit(9)
            )
            products.setdefault(domain, []).append(publish_responses(store, recipe, some, sizes))
            counts.setdefault(domain, []).append(some)
    return products, counts


def test_rates_are_counts_over_images(counted) -> None:
    products, counts = counted
    maps = response_maps(products["real"], products["synthetic"], [4, 0])
    for place, component in enumerate((4, 0)):
        for domain, found in (("real", maps.real), ("synthetic", maps.synthetic)):
            n_images = sum(sum(sizes) for sizes in SIZES[domain])
            for at in np.ndindex(3, 5):
                n = sum(int(block[at][component]) for some in counts[domain] for block in some)
                assert found[at][place] == pytest.approx(n / n_images)


def test_a_damaged_count_is_told(counted) -> None:
    products, _ = counted
    chunk = next(path for path in Path(products["real"][0].data.url).rglob("c/0/0/0/0"))
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DamagedProductError, match="verify --repair"):
        response_maps(products["real"], products["synthetic"], [0])


def test_a_map_has_a_pixel_per_position() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(map_png(np.array([[0.0, 1.0, 0.5], [1, 0, 0]])))))
    assert pixels.shape == (2, 3, 3)
    low, high, half = (pixels[0, place].astype(int) for place in range(3))
    assert low[2] > low[0]  # blue where nobody responds
    assert high[0] > high[2]  # red where everybody does
    assert half.min() > 240  # white between
    assert (pixels[1] == [high, low, low]).all()


def test_the_best_components_come_first() -> None:
    table = pd.DataFrame({"component": [0, 1, 2], "si": [0.7, 0.9, 0.8], "rank": [2, 0, 1]})
    assert best(table, 2)["component"].tolist() == [1, 2]


def test_the_picture_is_real_above_synthetic(counted) -> None:
    products, _ = counted
    maps = response_maps(products["real"], products["synthetic"], [4, 0])
    maps.real[...], maps.synthetic[...] = 1, 0  # red above blue
    table = pd.DataFrame({"component": [4, 0], "si": [0.9, 0.8]})
    png = draw_components(table, maps, title="$norm$ <b>")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 80) & (pixels[..., 1:] < 60).all(-1)
    blue = (pixels[..., 2] > 80) & (pixels[..., 0] < 60) & (pixels[..., 1] < 80)
    left = slice(0, pixels.shape[1] * 3 // 4)  # without the scale beside it
    rows_of_red, rows_of_blue = np.nonzero(red[:, left])[0], np.nonzero(blue[:, left])[0]
    assert len(rows_of_red) > 1000
    assert len(rows_of_blue) > 1000
    assert rows_of_red.max() < rows_of_blue.min()


def test_equal_counts_give_equal_bytes(request_of: Callable[..., ScoreRequest]) -> None:
    request = request_of(layers="norm")
    rows = run_stages(request)
    store = request.store()
    keys = {kind: store.products(kind)[0].key for kind in ("images", "checkpoints")}
    planned = request.planned(keys["images"], keys["checkpoints"])
    (layer,) = plan_of(planned).layers
    assert layer.head.key == rows[0]["key"]
    one, other = top_components(store, layer, 3), top_components(store, layer, 3)
    assert one == other
    assert Image.open(io.BytesIO(one)).format == "PNG"
