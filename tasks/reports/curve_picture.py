"""The picture of a training run: what its layers' scores do as it goes on."""

import io
from typing import TYPE_CHECKING, Any, Literal

from soapworks.method.scores import INVARIANCE_THRESHOLD, UNINFORMATIVE_SCORE
from soapworks.names import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BAND = 2.0
"""Half the height of the error band, standard errors."""

_SIZE = (9.0, 9.0)
_DOTS_PER_INCH = 100
_MARKERS_UP_TO = 30
_LAYERS_IN_A_COLUMN = 32
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "soapworks",
}


def draw(table: "pd.DataFrame", *, title: str, kind: Literal["png", "svg"]) -> bytes:
    """Return the picture of one run's table.

    Three panels over the training step, a line per layer: the highest SI with a band of two
    standard errors, the number of components above .75, and their share of the variance. Equal
    tables give equal bytes.

    Parameters
    ----------
    table
        Table of one run; see :mod:`soapworks.tasks.watch.curves`.
    title
        What stands above it.
    kind
        Format of the picture.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(table["layer"]))
    colours = mpl.colormaps["viridis"].resampled(256)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        top, counts, shares = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
        for place, layer in enumerate(layers):
            # Early layers dark, late ones light; pure yellow cannot be seen on white.
            colour = colours(0.92 * place / max(len(layers) - 1, 1))
            _draw_layer(table[table["layer"] == layer], str(layer), colour, top, counts, shares)
        _label(table, top, counts, shares)
        figure.suptitle(printable(title).replace("$", r"\$"), fontsize=12)
        figure.legend(
            *top.get_legend_handles_labels(),
            loc="outside right upper",
            title="layer",
            frameon=False,
            fontsize=9,
            ncols=1 if len(layers) <= _LAYERS_IN_A_COLUMN else 2,
        )
        picture = io.BytesIO()
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(picture, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)
    return picture.getvalue()


def _draw_layer(
    rows: "pd.DataFrame",
    layer: str,
    colour: object,
    top: "Axes",
    counts: "Axes",
    shares: "Axes",
) -> None:
    steps = rows["step"].to_numpy()
    si, error = rows["top_si"].to_numpy(), BAND * rows["top_standard_error"].to_numpy()
    look: dict[str, Any] = {"color": colour, "linewidth": 1.5}
    look |= {"marker": "o", "markersize": 4 if len(steps) <= _MARKERS_UP_TO else 2}
    top.plot(steps, si, label=layer, **look)
    if len(steps) > 1:
        top.fill_between(steps, si - error, si + error, color=colour, alpha=0.18, linewidth=0)
    else:
        top.errorbar(steps, si, yerr=error, color=colour, capsize=4, linewidth=1)
    counts.plot(steps, rows["n_invariant"].to_numpy(), **look)
    shares.plot(steps, rows["invariant_variance_share"].to_numpy(), **look)


def _label(table: "pd.DataFrame", top: "Axes", counts: "Axes", shares: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    last = table.iloc[-1]
    top.axhline(
        INVARIANCE_THRESHOLD,
        color="0.25",
        linestyle="--",
        linewidth=1,
        label=f"{INVARIANCE_THRESHOLD} (paper)",
    )
    top.axhline(
        UNINFORMATIVE_SCORE, color="0.55", linestyle=":", linewidth=1, label="uninformative"
    )
    top.set_ylabel("highest SI of a component")
    top.set_title(
        f"bands: ± {BAND:g} standard errors · {last['n_real']} real and {last['n_synthetic']} "
        f"synthetic images · {last['n_components']} components",
        loc="left",
        color="0.35",
    )
    counts.set_ylabel(f"components\nabove {INVARIANCE_THRESHOLD}")
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    _start_at_zero(counts, table["n_invariant"].max(), 1.0)
    shares.set_ylabel(f"variance in\ncomponents above {INVARIANCE_THRESHOLD}")
    shares.yaxis.set_major_formatter(PercentFormatter(1.0))
    _start_at_zero(shares, table["invariant_variance_share"].max(), 0.01)
    shares.set_xlabel(f"training {last['unit']}")
    shares.xaxis.set_major_locator(MaxNLocator(integer=True))
    if last["step"] >= 10**4:
        shares.xaxis.set_major_formatter(EngFormatter(sep=""))
    if table["step"].nunique() == 1:
        shares.set_xticks([int(last["step"])])


def _start_at_zero(axes: "Axes", highest: float, least: float) -> None:
    """Let an axis of amounts begin at zero, with room for the line at zero to be seen."""
    top = max(highest, least)
    axes.set_ylim(-0.05 * top, 1.08 * top)
