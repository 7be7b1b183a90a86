"""How steep the scores are at the boundary: of hard decisions only a decoy's slope can be seen from afar.

A model that hides its scores (rounding, hard labels, a sigmoid that is almost a step) may add a small smooth term,
whose gradient is true wherever it is looked at, and leads nowhere. On the way to an image of another class it rises
little, and all at once where the class changes.
"""

import torch
from torch import Tensor

from nofreelunch.attacks.losses import margin
from nofreelunch.evaluation.bisection import bisected
from nofreelunch.evaluation.result import Flag
from nofreelunch.threats import expand
from nofreelunch.types import Inputs, Labels, Model, PerExample

_HALVINGS = 12
_ON_THE_WAY = (0.25, 0.5, 0.75)
"""Where the margin is asked for before the boundary, in shares of the way: an example may lie at a boundary itself."""
_USUALLY, _EVER = 15.0, 200.0
"""Steeper than on the way there: in the median, and at two points. Of the package's models the median is 1 to 4, and
the steepest of 150 to 190 lines 11 to 40: `tests/test_evaluation_holes.py` holds some of them to it."""


def steepness(answer: Model, x: Inputs, y: Labels, others: Inputs) -> PerExample:
    """The margin's slope where the answer changes, over its mean slope on the way there; 0 where it does not change.

    The mean slope is that of a straight line from x, at the lowest margin that was met on the way.

    Args:
        answer: the model.
        x: examples.
        y: their labels.
        others: for each an image of another class, towards which the boundary is looked for.
    """

    def margins(share: Tensor) -> Tensor:
        return margin(answer(x + expand(share, x).to(x.dtype) * (others - x)), y).double()

    with torch.no_grad():
        low, high = torch.zeros_like(y, dtype=torch.float64), torch.ones_like(y, dtype=torch.float64)
        start = margins(low)
        changes = (start < 0) & (margins(high) > 0)
        low, high = bisected(lambda share: margins(share) > 0, low, high, _HALVINGS)
        depth = torch.stack([start, *(margins(share * low) for share in _ON_THE_WAY)]).amin(0).abs()
        at_boundary, mean = (margins(high) - margins(low)) / (high - low), depth / low
    return torch.where(changes, at_boundary / mean, 0.0).nan_to_num(nan=0.0, posinf=0.0)


def boundary_flag(ratios: PerExample) -> Flag | None:
    """Whether the scores jump where the answer changes."""
    seen = ratios[ratios > 0]
    if len(seen) == 0 or (seen.median() <= _USUALLY and (seen > _EVER).sum() < 2):
        return None
    return Flag(
        "steps-at-boundary",
        f"where the answer changes, the margin rises up to {float(seen.max()):.0f} times (in the median "
        f"{float(seen.median()):.0f} times) as steeply as on the way there",
        "the scores do not say how near the boundary is; return the scores that the decision is made from",
    )
