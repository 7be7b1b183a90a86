"""Clean accuracy above, robust accuracy below, against what the sweep varies; drawn in matplotlib's current style."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofreelunch.drawing import curve
from nofreelunch.evaluation import Tally
from nofreelunch.sweep.table import Row, format_setting
from nofreelunch.threats import THREATS, Linf, format_radius

_APART = ("data", "threat", "seed")  # columns of panels, and what is averaged over


@dataclass(frozen=True)
class Dot:
    """One accuracy of one model.

    Args:
        panel: 0 for clean accuracy, 1 for robust accuracy.
        column: the data set and the norm of the training's threat.
        line: what the dots of one line have in common, in words.
        x: the value of the setting on the x axis.
        name: of the point.
        tally: the accuracy.
    """

    panel: int
    column: tuple[str, str]
    line: str
    x: Any
    name: str
    tally: Tally


def plot(rows: Sequence[Row], varied: Sequence[str]) -> Figure:
    """A column of two panels for each data set and norm; a line for each combination of what else is varied.

    On the x axis is eps, if it is varied, or else the first setting that is. Dots are means over the seeds, bars their
    range; where there is one seed, its 95% interval.
    """
    axis = "eps" if "eps" in varied else next((name for name in varied if name not in _APART), "eps")
    dots = list(dict.fromkeys(_dots(rows, varied, axis)))
    columns = list(dict.fromkeys(dot.column for dot in dots))
    size = (min(12, 1.8 + 2.6 * len(columns)), 5.4)
    figure, grid = pyplot.subplots(2, len(columns), figsize=size, squeeze=False, sharex="col")
    for place, (data, norm) in enumerate(columns):
        here = [dot for dot in dots if dot.column == (data, norm)]
        for panel in (0, 1):
            _draw(grid[panel, place], [dot for dot in here if dot.panel == panel])
        grid[0, place].set_title(f"{Path(data).name}, {THREATS[norm].symbol if norm else 'standard'}")
        grid[1, place].set(xlabel="training eps" if axis == "eps" else axis, ylim=(-3, 103))
    grid[0, 0].set_ylabel("clean accuracy, %")
    grid[1, 0].set_ylabel("robust accuracy\nat the training eps, %" if _at_own(rows) else "robust accuracy, %")
    return figure


def _dots(rows: Sequence[Row], varied: Sequence[str], axis: str) -> Iterator[Dot]:
    """Clean and robust accuracy of each row; a standard model stands at eps 0 in each column of its data set."""
    own = _at_own(rows)
    numbers = all(isinstance(row.point.settings[axis], (int, float)) for row in rows)  # or else all are words
    for row in rows:
        settings, within = row.point.settings, row.score.threat
        x = settings[axis] if numbers else format_setting(settings, axis)
        shown = ((name, format_setting(settings, name)) for name in varied if name not in (*_APART, axis))
        words = [f"{name} {word}" for name, word in shown if word]
        under = [] if own else [f"within {within.symbol} {format_radius(within.eps)}"]
        for norm in _norms(row, rows):
            column = (settings["data"], norm)
            yield Dot(0, column, ", ".join(words), x, row.name, row.score.clean)
            yield Dot(1, column, ", ".join([*words, *under]), x, row.name, row.score.robust)


def _norms(row: Row, rows: Sequence[Row]) -> list[str]:
    """The norms of the columns that a row is in: a standard model's are all there are for its data set."""
    if row.point.config.threat:
        return [row.point.config.threat.norm]
    there = (other.point.config.threat for other in rows if other.point.data == row.point.data)
    return list(dict.fromkeys(threat.norm for threat in there if threat)) or [""]


def _at_own(rows: Sequence[Row]) -> bool:
    """Whether each model is examined within the threat that it was trained against, and no other."""
    return all(row.score.threat == (row.point.config.threat or Linf(0.0)) for row in rows)


def _draw(axes: Axes, dots: Sequence[Dot]) -> None:
    lines = list(dict.fromkeys(dot.line for dot in dots))
    for line in lines:
        by_x: dict[Any, list[Tally]] = {}
        for dot in dots:
            if dot.line == line:
                by_x.setdefault(dot.x, []).append(dot.tally)
        if not any(isinstance(x, str) for x in by_x):
            by_x = dict(sorted(by_x.items()))
        curve(axes, [*by_x], [_over_seeds(tallies) for tallies in by_x.values()], label=line)
    if len(lines) > 1:
        axes.legend(fontsize=8)


def _over_seeds(tallies: Sequence[Tally]) -> tuple[float, float, float]:
    """The mean rate, and the range of the rates, or the interval of a single one."""
    rates = [tally.rate for tally in tallies]
    ends = tallies[0].interval(0.95) if len(rates) == 1 else (min(rates), max(rates))
    return sum(rates) / len(rates), *ends
