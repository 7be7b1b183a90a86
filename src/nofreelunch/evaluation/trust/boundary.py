"""Where scores jump: at the boundary, of hard decisions, whose decoy alone has a slope; and on the way to it.

A model that hides its scores (rounding, hard labels, a sigmoid that is almost a step) may add a small smooth term,
whose gradient is true wherever it is looked at, and leads nowhere. On the way to an image of another class it rises
little, and all at once where the class changes. And a gate that hands some images to another network leaves a gradient
that is true and does not tell of the gate.
"""

from functools import partial

import torch

from nofreelunch.attacks.losses import margin
from nofreelunch.evaluation.remedies.bisection import between, bisected, largest_change
from nofreelunch.evaluation.result import Flag
from nofreelunch.types import Inputs, Labels, Model, PerExample

_HALVINGS = 12
_MARKS = 8
"""Parts of a way that are held against each other before the one with the largest change is halved."""
_JUMP = 0.1
"""Of the change on a whole way; what is as steep as the steepest place of the package's models makes some 0.1 %."""
_ROUNDED = 0.3
"""Where the margin changes by less than this share of itself, as in small balls, rounding to bfloat16 is no jump."""
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

    margins = partial(_margins_on_the_way, answer, x, y, others)
    with torch.no_grad():
        low, high = torch.zeros_like(y, dtype=torch.float64), torch.ones_like(y, dtype=torch.float64)
        start = margins(low)
        changes = (start < 0) & (margins(high) > 0)
        low, high = bisected(lambda share: margins(share) > 0, low, high, _HALVINGS)
        depth = torch.stack([start, *(margins(share * low) for share in _ON_THE_WAY)]).amin(0).abs()
        at_boundary, mean = (margins(high) - margins(low)) / (high - low), depth / low
    return torch.where(changes, at_boundary / mean, 0.0).nan_to_num(nan=0.0, posinf=0.0)


def largest_jump(answer: Model, x: Inputs, y: Labels, z: Inputs) -> PerExample:
    """How much of all that the margin changes by between x and z it changes by at one place; continuous scores: ~ 0.

    Args:
        answer: the model.
        x: examples.
        y: their labels.
        z: for each another point.
    """

    margins = partial(_margins_on_the_way, answer, x, y, z)
    with torch.no_grad():
        marks = torch.linspace(0, 1, _MARKS + 1, dtype=torch.float64, device=x.device)
        seen, jump, _ = largest_change(lambda share: margins(share)[:, None], marks, len(x), _HALVINGS)
        change = seen.amax(0) - seen.amin(0)
        share = (jump.abs() / torch.maximum(change, _ROUNDED * seen.abs().amax(0))).squeeze(1)
    return share.nan_to_num(nan=0.0, posinf=0.0)


def _margins_on_the_way(answer: Model, x: Inputs, y: Labels, end: Inputs, share: PerExample) -> PerExample:
    """A share of the way from x to another point."""
    return margin(answer(between(x, end, share)), y).double()


def jump_flag(shares: PerExample) -> Flag | None:
    """Whether the scores jump on the way to where an attack arrives."""
    jumps = int((shares > _JUMP).sum())
    if jumps < 2:
        return None
    return Flag(
        "jumping-scores",
        f"between examples and where an attack takes them the scores jump, on {jumps} of {len(shares)} ways, once by "
        f"{100 * float(shares.max()):.0f} % of all their change",
        "no gradient tells of the jumps, and an attack may end on the wrong side; attack each of the networks between "
        "which the model chooses",
    )


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
