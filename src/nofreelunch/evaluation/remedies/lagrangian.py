"""What attacks share that climb the scores of one part of a model and keep to where that part answers."""

import torch
from torch import Tensor

from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Mask, PerExample

_TURN = 1.2
"""By this factor the weight of the condition changes from step to step."""
_LAST = 0.01
"""Length of the last steps, in radii; the first are half a radius longer."""
TARGETS = 3
"""Wrong classes in each part that a thorough attack goes for."""


def unit_slope(threat: Threat, height: Tensor | None, z: Inputs) -> Inputs:
    """The gradient of a height for each example, of length one in the dual norm; 0 where there is none."""
    slope = None
    if height is not None and height.requires_grad:
        (slope,) = torch.autograd.grad(height.sum(), z, retain_graph=True, allow_unused=True)
    if slope is None:
        return torch.zeros_like(z)
    return threat.unit(slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))


def turned(weight: PerExample, there: Mask) -> PerExample:
    """The condition's weight in the Lagrangian: it rises while the condition does not hold, and falls while it does."""
    return weight * torch.where(there, 1 / _TURN, _TURN)


def stepped(threat: Threat, z: Inputs, x: Inputs, slope: Inputs, done: float) -> Inputs:
    """A step along the Lagrangian's slope, shorter and shorter.

    Args:
        threat: the set.
        z: where the attack is.
        x: the examples.
        slope: the unit slope of the scores, and beside it the condition's by its weight.
        done: share of the steps that are done.
    """
    return threat.project(z + threat.eps * ((1 - done) / 2 + _LAST) * threat.steepest(slope), x)
