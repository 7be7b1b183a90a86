"""One look for every figure: drawn from saved results, readable on a phone, on paper, on light and dark pages.

`plot` functions use matplotlib's current style and the names in `COLOUR`; `drawn` applies the style and renders.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#1b1c1e"
"""Text and axes; pages replace it by their own text colour."""

COLOUR = {
    "standard": "#d9822b",
    "robust": "#2f7fc1",
    "l2": "#2a9d6f",
    "bound": "#c4485a",
    "other": "#8f6bb3",
    "quiet": "#8a8f98",
}
"""Roles, not hues: the same thing has the same colour in every figure; each is legible on white and on near-black."""

_STYLE: dict[str, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#8a8f98",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "nofreelunch",
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Our look, for as long as the block lasts; no window is opened and no global setting is left changed."""
    import matplotlib
    from cycler import cycler

    cycle = cycler(color=[COLOUR[name] for name in ("robust", "standard", "l2", "bound", "other", "quiet")])
    settings: Any = {**_STYLE, "axes.prop_cycle": cycle}
    with matplotlib.rc_context(settings):
        yield


def drawn(plot: Callable[[Any], "Figure"], result: Any) -> dict[str, bytes]:
    """The figure of a result, as ".svg" and as ".png"; the same result gives the same SVG."""
    from matplotlib import pyplot

    with style():
        figure = plot(result)
        try:
            _settle(figure)
            return {".svg": _render(figure, "svg"), ".png": _render(figure, "png")}
        finally:
            pyplot.close(figure)


def curve(axes: "Axes", x: Sequence[Any], rates: ArrayLike, colour: str | None = None, label: str = "") -> None:
    """Draw rates, in percent, with bars; `rates` (n, 3) are those and the ends of their bars."""
    rate, low, high = (100 * column for column in np.array(rates).T)
    bars = [abs(rate - low), abs(high - rate)]  # rounding may leave a mean outside the range of equal rates
    axes.errorbar(x, rate, yerr=bars, marker="o", markersize=4, capsize=3, color=colour, label=label)


def inlined(svg: str) -> str:
    """An SVG file of ours as part of a page: in the page's text colour."""
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def _settle(figure: "Figure") -> None:
    """Lay the figure out once and keep that, rounded: the solver's answers differ in their last digits."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = (round(value, 4) for value in axes.get_position(original=True).bounds)
        axes.set_position((x, y, width, height))


def _render(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "svg":
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    else:
        figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
