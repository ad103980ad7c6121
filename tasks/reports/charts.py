"""Charts of a report: drawn by matplotlib, coloured by the page they stand on.

A chart is SVG for use inside of HTML. Colours are named by the page's style (``--ink`` and so on),
so that a chart is as legible on a dark page as on a light one.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from soapworks.method.scores import INVARIANCE_THRESHOLD, UNINFORMATIVE_SCORE
from soapworks.names import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_MARKED = 32
"""Components with a dot of their own; the line goes on without."""

# Colours that nobody else uses stand for the page's own until the chart is written.
_COLOURS = {
    "ink": "#010203",
    "faint": "#010204",
    "line": "#010205",
    "accent": "#010206",
}

_STYLE: Any = {
    "svg.hashsalt": "soapworks",
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["faint"],
    "axes.labelcolor": _COLOURS["ink"],
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["ink"],
    "ytick.color": _COLOURS["ink"],
    "legend.frameon": False,
    "path.simplify_threshold": 0.5,
}

BAND = 2.0
"""Half the height of the error band, standard errors."""

_CURVE_SIZE = (9.0, 9.0)
_CURVE_DOTS_PER_INCH = 100
_MARKERS_UP_TO = 30
_LAYERS_IN_A_COLUMN = 32
_CURVE_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "soapworks",
}


def by_rank(scores: pd.DataFrame) -> str:
    """Return the chart of a layer's scores by rank, with a band of two standard errors.

    Parameters
    ----------
    scores
        The layer's score table.
    """
    table = scores.dropna(subset="si").sort_values("rank")
    rank = table["rank"].to_numpy() + 1
    si, error = table["si"].to_numpy(), 2 * table["standard_error"].fillna(0).to_numpy()

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.fill_between(
            rank, si - error, si + error, color=_COLOURS["line"], alpha=0.25, linewidth=0
        )
        look: Any = {"marker": "o", "markersize": 2.5, "markevery": slice(0, _N_MARKED)}
        axes.plot(rank, si, color=_COLOURS["line"], linewidth=1.2, **look)
        _draw_limits(axes)
        axes.set_xscale("log")
        last = rank[-1] if len(rank) else 1  # an old store's layer may have no score at all
        axes.set_xlim(0.9, max(last * 1.1, 2))
        ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
        axes.set_xticks([tick for tick in ticks if tick <= last])
        axes.get_xaxis().set_major_formatter(lambda value, _: f"{value:g}")
        axes.get_xaxis().set_minor_locator(_no_ticks())
        axes.set_ylim(min(0.6, float(np.min(si - error, initial=1)) - 0.02), 1.005)
        axes.set_xlabel("rank of the component, highest SI first")
        axes.set_ylabel("SI")

    return _svg(draw, (8.6, 3.2))


def by_layer(
    layers: Sequence[str], si: Sequence[float], error: Sequence[float], share: Sequence[float]
) -> str:
    """Return the chart of layers: highest SI with two standard errors, variance above .75.

    Parameters
    ----------
    layers
        Names, in forward order.
    si, error, share
        Highest SI, its standard error (NaN where not known), variance share in [0, 1].
    """
    place = np.arange(len(layers))

    def draw(figure: "Figure") -> None:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        bars = np.nan_to_num(2 * np.asarray(error, float))
        top.errorbar(
            place, si, yerr=bars, color=_COLOURS["line"], marker="o", markersize=4, capsize=3
        )
        _draw_limits(top)
        lowest = np.nan_to_num(np.asarray(si, float) - bars, nan=1.0).min()
        top.set_ylim(min(0.6, float(lowest) - 0.02), 1.005)
        top.set_ylabel("highest SI")
        below.bar(place, [100 * one for one in share], color=_COLOURS["accent"], width=0.6)
        below.set_ylim(0, max(1.0, 110 * max(share)))
        below.set_ylabel("% of variance\nabove .75")
        below.set_xticks(place)
        names = [printable(layer) for layer in layers]
        below.set_xticklabels(names, rotation=35, ha="right", parse_math=False)

    return _svg(draw, (8.6, 4.2))


def _draw_limits(axes: "Axes") -> None:
    axes.axhline(INVARIANCE_THRESHOLD, color=_COLOURS["accent"], linestyle="--", linewidth=1)
    axes.axhline(UNINFORMATIVE_SCORE, color=_COLOURS["faint"], linestyle=":", linewidth=1.2)
    # Beside the axes, where no curve runs into them.
    look: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 8}
    axes.annotate(
        ".75", (1.01, INVARIANCE_THRESHOLD), color=_COLOURS["accent"], va="bottom", **look
    )
    axes.annotate(".7071", (1.01, UNINFORMATIVE_SCORE), color=_COLOURS["ink"], va="center", **look)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _svg(draw: Any, size: tuple[float, float]) -> str:
    """Return a figure as SVG for use inside of HTML; equal input, equal text."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # The page's own fonts; a comment's text is the label's once more.
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'[^\"]*?(?=[;\"])", r"\1sans-serif", svg)
    return svg.strip()


def curves(table: "pd.DataFrame", *, title: str, kind: Literal["png", "svg"]) -> bytes:
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
    with mpl.rc_context(_CURVE_STYLE):
        figure = Figure(figsize=_CURVE_SIZE, layout="constrained")
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
        figure.savefig(picture, format=kind, dpi=_CURVE_DOTS_PER_INCH, metadata=metadata)
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
