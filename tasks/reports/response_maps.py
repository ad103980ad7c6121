"""Response rates as pictures: where on the grid a component answers yes, real above synthetic.

From the stored counts alone (section 4 of docs/method.md): no image and no network is needed.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from soapworks.storage_schemas.layout.arrays import open_array
from soapworks.storage_schemas.layout.tables import HEAD_SCORES, SCORES_TABLE, read_scores
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from soapworks.tasks.get_or_make import require
from soapworks.tasks.plan.recipes import LayerPlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_TOP = 8
"""Components that are shown, those with the highest SI."""

COLOURS = "RdBu_r"
"""Red: nearly all images respond; blue: hardly any; white: half of them, as chance has it."""

_PANEL_INCHES = 1.25
_DOTS_PER_INCH = 130


@dataclass(frozen=True)
class Maps:
    """How often some components of a layer respond, position by position."""

    components: tuple[int, ...]
    real: np.ndarray
    """Share of the real images that respond positively, (row, column, component) float64."""
    synthetic: np.ndarray
    """The same of the synthetic images."""

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield component, real and synthetic map (row, column)."""
        for place, component in enumerate(self.components):
            yield component, self.real[..., place], self.synthetic[..., place]


def response_maps(
    real: Sequence[Product], synthetic: Sequence[Product], components: Sequence[int]
) -> Maps:
    """Return the response rates of some components.

    Parameters
    ----------
    real, synthetic
        Responses of all segments of a domain.
    components
        Which components.

    Raises
    ------
    DamagedProductError
        If counts cannot be read.
    """
    wanted = tuple(int(component) for component in components)
    return Maps(wanted, _rates(real, wanted), _rates(synthetic, wanted))


def _rates(products: Sequence[Product], components: Sequence[int]) -> np.ndarray:
    total: Any = 0
    n_images = 0
    for product in products:
        group = product.open_zarr()
        counts = open_array(group, "responses", "counts")
        # Block by block: all counts of a large segment together may not fit into memory.
        for number in range(counts.shape[0]):
            total = total + counts[number][..., list(components)].astype(np.int64)
        n_images += int(np.asarray(open_array(group, "responses", "n_images")[:]).sum())
    return np.asarray(total / n_images)


def top_components(store: Store, layer: LayerPlan, n: int = N_TOP) -> bytes:
    """Return a picture of a layer's n components with the highest SI, as PNG.

    Parameters
    ----------
    store
        Where the products are.
    layer
        Plan of the layer; its head and responses are there.
    n
        Number of components.

    Raises
    ------
    StoreError
        Where a product is gone.
    """
    table = best(scores_of(require(store, layer.head)), n)
    real, synthetic = (
        [require(store, recipe) for recipe in recipes]
        for recipes in (layer.real_responses, layer.synthetic_responses)
    )
    maps = response_maps(real, synthetic, table["component"].tolist())
    return draw_components(table, maps, title=layer.subject.layer)


def scores_of(head: Product) -> pd.DataFrame:
    """Return the score table that lies beside a head; without variance there is no score."""
    n_rows = head.facts.get("n_components")
    table = read_scores(head.read(SCORES_TABLE), HEAD_SCORES, n_rows=n_rows)
    table.loc[table["explained_variance"] == 0, ["si", "standard_error"]] = np.nan
    return table


def best(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the rows of the n components with the highest SI, the highest first."""
    return table.dropna(subset="si").sort_values("rank").head(n)


def draw_components(table: pd.DataFrame, maps: Maps, *, title: str) -> bytes:
    """Return components side by side, real above synthetic, as PNG; equal input, equal bytes.

    Parameters
    ----------
    table
        A row per component of ``maps``, in their order.
    maps
        Their response rates.
    title
        What stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(maps.components)
    size = (_PANEL_INCHES * n + 1.3, 2 * _PANEL_INCHES + 1.1)
    figure = Figure(figsize=size, layout="constrained", dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, n, squeeze=False)
    for column, (row, (_, *domains)) in enumerate(zip(table.to_dict("records"), maps, strict=True)):
        for panel, rates in zip(panels[:, column], domains, strict=True):
            image = panel.imshow(rates, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        panels[0, column].set_title(
            f"component {row['component']}\nSI {row['si']:.3f}", fontsize=8, parse_math=False
        )
    for panel, name in zip(panels[:, 0], ("real", "synthetic"), strict=True):
        panel.set_ylabel(name, fontsize=9)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=18, ticks=[0, 0.5, 1])
    bar.set_label("share of images\nthat respond", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return _png(figure)


def map_png(rates: np.ndarray) -> bytes:
    """Return a map (row, column) of rates in [0, 1] as PNG, a pixel per position."""
    import matplotlib as mpl
    from PIL import Image

    pixels = mpl.colormaps[COLOURS](np.asarray(rates, float), bytes=True)[..., :3]
    picture = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(picture, format="png", optimize=True)
    return picture.getvalue()


def _png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
