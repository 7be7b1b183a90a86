"""What the page of an explanation shows: the ball that is meant, pictures, and the table of measures."""

from typing import Any

from nofreelunch.data import Dataset
from nofreelunch.drawing import drawn
from nofreelunch.errors import InputError
from nofreelunch.evaluation.source import check_reach
from nofreelunch.experiments.deep import NORMS
from nofreelunch.experiments.estimates import plain_number
from nofreelunch.experiments.explanation import Explanation, frames, plot_examples, plot_gradients, plot_path
from nofreelunch.experiments.figure_5 import MEASURES, NOISE
from nofreelunch.experiments.paper_values import TABLE_3_EPS
from nofreelunch.threats import Threat, threat

UNKNOWN = "–"
"""Stands in the table where no value is known."""


def large_eps_ball(data: Dataset, norm: str, eps: str | None = None) -> Threat:
    """The ball of radius `eps`, or of Table 3's.

    Raises:
        InputError: if no radius is given and the paper has none for the data set, or it is out of range.
    """
    radius = eps or TABLE_3_EPS.get((data.name.removesuffix("-sample"), norm))
    if radius is None:
        raise InputError(f"--eps is needed: the paper has no large eps for {data.name}; give one, such as 32/255")
    ball = threat(norm, radius)
    check_reach(ball, data)
    return ball


def contents(explanation: Explanation, ball: Threat) -> dict[str, Any]:
    """The fields of the report's `Page` that follow from the explanation: PNGs, words and rows of the table."""
    true, _, new = explanation.labels
    plots = {"gradients": plot_gradients, "examples": plot_examples, "path": plot_path}
    return {
        **{name: drawn(plot, explanation)[1] for name, plot in plots.items()},
        "ball": f"{NORMS[ball.norm]} ball of radius {ball.eps:.4g}",
        "ways": tuple(f"{one} to {other}" for one, other in zip(true, new, strict=True)),
        "frames": frames(explanation),
        "rows": tuple(
            (MEASURES[name], plain_number(value), NOISE.get(name, UNKNOWN))
            for name, value in explanation.measures.items()
        ),
        "measured": explanation.measured,
        "flat": explanation.flat,
    }
