"""The page of `nofreelunch explain`: one file, no script, no network; its slider is a row of radio buttons."""

import base64
from dataclasses import dataclass

from nofreelunch.report.template import filled


@dataclass(frozen=True)
class Page:
    """What the page shows. All of it is data, and is escaped.

    Args:
        model: as the user named it.
        data: name of the data set.
        ball: where the examples lie, in words.
        ways: from which class to which each example leads, in words.
        gradients: PNG; likewise `examples`, and `path`, the still picture of the interpolations.
        frames: PNGs, the interpolations point by point.
        rows: of the table of measures: name, value, and the value of noise.
        measured: how many gradients were measured.
        flat: how many of them are zero.
        command: the one that made the page.
    """

    model: str
    data: str
    ball: str
    ways: tuple[str, ...]
    gradients: bytes
    examples: bytes
    path: bytes
    frames: tuple[bytes, ...]
    rows: tuple[tuple[str, str, str], ...]
    measured: int
    flat: int
    command: str


def explanation_page(page: Page) -> bytes:
    """The page as HTML."""
    return filled("explanation.html", {"uri": _uri}, page=page)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
