"""Grids of pictures under one another, and charts below: the layout that Figures 3 to 8 share."""

from typing import TYPE_CHECKING

from nofreelunch.experiments.image_grid import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _MARGIN, _TITLE = 8.0, 1.1, 0.35  # inches: of the figure, for row titles, for a title with its space

_INSIDE = (0.02, 0.0, 0.96, 1.0)  # left, bottom, width, height: fonts of a reader's browser may be wider than ours


def wall(grids: list[Grid], charts: int = 0, chart_height: float = 2.4) -> "tuple[Figure, list[Axes]]":
    """A figure of grids, and below them a row of empty axes for charts; without grids it says that none is there."""
    from matplotlib import pyplot

    heights = [grid.height(_WIDTH - _MARGIN) + _TITLE for grid in grids] + [chart_height] * bool(grids and charts)
    figure = pyplot.figure(figsize=(_WIDTH, sum(heights) or 1))
    if not grids:
        figure.text(0.5, 0.5, "none of the models is there", ha="center", va="center")
        return figure, []
    figure.set_layout_engine("constrained", rect=_INSIDE)
    layout = figure.add_gridspec(len(heights), max(1, charts), height_ratios=heights)
    for row, grid in enumerate(grids):
        grid.draw(figure.add_subplot(layout[row, :]), _WIDTH - _MARGIN)
    return figure, [figure.add_subplot(layout[-1, column]) for column in range(charts)]
