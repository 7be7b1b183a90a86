"""Images in rows and columns, with a caption under each, and charts below: the form of Figures 3 to 8."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nofreelunch.types import Images

Pictures = UInt8[np.ndarray, "_ _ _ _ 3"]
"""(rows, columns, height, width, colours)"""

_APART, _ROOM = 0.08, 0.24  # inches between images, and under images with captions
_SIZE = 8.0  # of captions, in points
_WIDTH, _MARGIN, _TITLE = 8.0, 1.1, 0.35  # inches: of a figure, for row titles, for a title with its space
_INSIDE = (0.02, 0.0, 0.96, 1.0)  # left, bottom, width, height: fonts of a reader's browser may be wider than ours
_STRIP = 10  # points shown of an interpolation: few enough to be seen on a phone


def to_pictures(rows: Sequence[Float[Tensor, "columns _ h w"]]) -> Pictures:
    """Rows of images in [0, 1] as 8-bit colours; grey is repeated, channels after the third are left out."""
    stacked = torch.stack([_colours(row.detach().cpu()) for row in rows])
    return (255 * stacked.clamp(0, 1)).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()


def _colours(images: Images) -> Float[Tensor, "n 3 h w"]:
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)
class Grid:
    """Pictures and what is written beside them.

    Attributes:
        title: above all.
        pictures: what is drawn.
        rows: a title left of each row.
        captions: a text under each picture, row by row; an empty row takes no room.
    """

    title: str
    pictures: Pictures
    rows: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...] = ()

    def height(self, width: float) -> float:
        """Inches that the grid is high when it is `width` inches wide, without its title."""
        return self._layout(width)[1][-1] * width / self._layout(width)[0][-1]

    def canvas(self, width: float) -> UInt8[np.ndarray, "H W 4"]:
        """All pictures as one image, with room for what is written; gaps are transparent."""
        height, wide = self.pictures.shape[2:4]
        lefts, tops = self._layout(width)
        canvas = np.zeros((tops[-1], lefts[-1], 4), np.uint8)
        for row, top in enumerate(tops[:-1]):
            for column, left in enumerate(lefts[:-1]):
                canvas[top : top + height, left : left + wide, :3] = self.pictures[row, column]
                canvas[top : top + height, left : left + wide, 3] = 255
        return canvas

    def draw(self, axes: Axes, width: float) -> None:
        """Fill the axes, `width` inches wide; the pictures are one image, so that files stay small."""
        height, wide = self.pictures.shape[2:4]
        lefts, tops = self._layout(width)
        for row, top in enumerate(tops[:-1]):
            side = (-0.5, top + height / 2)
            _write(axes, self.rows[row], side, (-6, 0), ha="right", va="center", fontsize=_SIZE + 1)
            for column, left in enumerate(lefts[:-1] if self._captioned(row) else []):
                under = (left + (wide - 1) / 2, top + height - 0.5)
                _write(axes, self.captions[row][column], under, (0, -2), ha="center", va="top", fontsize=_SIZE)
        axes.imshow(self.canvas(width), interpolation="none")
        axes.set_title(self.title)
        axes.axis("off")

    def _captioned(self, row: int) -> bool:
        return bool(self.captions) and bool(self.captions[row])

    def _layout(self, width: float) -> tuple[list[int], list[int]]:
        """Left edges of columns and top edges of rows, in pixels of the pictures; the last is the end of the canvas."""
        rows, columns, height, wide, _ = self.pictures.shape
        inch = wide * columns / (width - _APART * (columns - 1))
        across = wide + max(1, round(inch * _APART))
        tops = [0]
        for row in range(rows):
            tops.append(tops[-1] + height + max(1, round(inch * (_ROOM if self._captioned(row) else _APART))))
        return [column * across for column in range(columns)] + [columns * across - (across - wide)], tops


def stacked(grids: list[Grid], charts: int = 0, chart_height: float = 2.4) -> tuple[Figure, list[Axes]]:
    """A figure of grids, and below them a row of empty axes for charts; without grids it says that none is there."""
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


def strip_places(points: int) -> Tensor:
    """Which of the points of an interpolation are shown in a strip, evenly spaced, ends included."""
    return torch.linspace(0, points - 1, min(_STRIP, points)).round().long()


def _write(axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **look: object) -> None:
    axes.annotate(text, place, offset, textcoords="offset points", **look)  # type: ignore[arg-type]
