"""FAB: the nearest misclassified point, by walking along the decision boundary.

Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack".
"""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Best, Search, State, take
from nofreelunch.attacks.gradient import value_and_gradient
from nofreelunch.attacks.losses import lead, misclassified
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.errors import check_count, check_number
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, coordinates, expand
from nofreelunch.types import Inputs, Labels, Mask, Model, PerExample

_PULL = 0.1
"""The largest weight of the step that starts from x instead of from the iterate (alpha_max)."""
_OVERSHOOT = 1.05
"""How far beyond the linearised boundary a step goes (eta)."""
_BACK = 0.9
"""The share of the way from x to a misclassified point at which the walk goes on (beta)."""
_REVIEW_AT = 4
"""Examples are given up, if at all, after the steps over this number."""


@dataclass(frozen=True)
class _Walk(State):
    """z is the iterate, in the box but not always in the ball; nearest, how far the nearest misclassified one was."""

    nearest: Tensor


@final
@dataclass(frozen=True)
class FAB(Search):
    """Steps to where the linearised model has its boundary towards one class, each biased towards x.

    Unlike an ascent it climbs no loss, so a flat or badly scaled one does not stop it. It ends where a misclassified
    point lies in the threat's set.

    Args:
        threat: the set; l_inf or l_2.
        steps: linearisations.
        target_rank: its boundary is that to the wrong class with this rank at x (1 is the runner-up).
        reach: examples are given up after a quarter of the steps if the nearest misclassified point found so far lies
            farther than so many eps; None: never.

    Raises:
        InputError: if a number is out of range.
    """

    random_start: ClassVar[bool] = False
    steps: int = 100
    target_rank: int = 1
    reach: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)
        check_count("target_rank", self.target_rank)
        if self.reach is not None:
            check_number("reach", self.reach, 1, float("inf"))

    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """All steps, and a last look."""
        best, index = Best(x, model), torch.arange(len(x), device=x.device)
        target, nowhere = ranked_wrong_class(model, x, y, self.target_rank), torch.full((len(x),), torch.inf).to(x)
        state = _Walk(x, y, x, streams, nowhere, target=target)
        for count in range(self.steps):
            assert state.target is not None
            logits, gap, grad = value_and_gradient(lead, model, state.z, state.y, state.target)
            inside = self.threat.contains(state.z, state.x)
            rows = inside.nonzero().squeeze(1)
            best.offer(index[rows], state.z[rows], logits[rows], state.y[rows])
            state = self._move(state, misclassified(logits, state.y), gap, grad)
            leaving = best.broken[index]
            if self.reach is not None and count + 1 == self.steps // _REVIEW_AT:
                leaving = leaving | (state.nearest > self.reach * self.threat.eps)
            standing = (~leaving).nonzero().squeeze(1)
            if len(standing) == 0:
                return best.z
            state, index = take(state, standing), index[standing]
        z = self.threat.project(state.z, state.x)
        with torch.no_grad():
            best.offer(index, z, model(z), state.y)
        return best.z

    def _move(self, state: _Walk, across: Mask, gap: PerExample, grad: Inputs) -> _Walk:
        """Equation 9 of the paper: a mixture of the nearest points of the linearised boundary to z and to x."""
        x = state.x
        distance = torch.where(across, self.threat.size(state.z - x), torch.inf)
        z = torch.where(expand(across, x), x + _BACK * (state.z - x), state.z)
        gap = gap + _inner(grad, z - state.z)
        from_z = nearest_crossing(self.threat, z, grad, -gap)
        from_x = nearest_crossing(self.threat, x, grad, -gap - _inner(grad, x - z))
        near, far = self.threat.size(from_z), self.threat.size(from_x)
        pull = expand((near / (near + far)).nan_to_num(nan=0.0).clamp(max=_PULL), x).to(x.dtype)
        z = (1 - pull) * (z + _OVERSHOOT * from_z) + pull * (x + _OVERSHOOT * from_x)
        nearest = torch.minimum(state.nearest, distance.to(state.nearest))
        return replace(state, nearest=nearest, z=self.threat.clip(z))


def _inner(a: Tensor, b: Tensor) -> PerExample:
    return (a * b).sum(coordinates(a))


def nearest_crossing(threat: Threat, z: Inputs, grad: Inputs, gap: PerExample) -> Inputs:
    """The smallest d with <grad, d> = gap and z + d in the box; where the box ends before that, all that it allows.

    Each coordinate is min(t u, room) in magnitude, where u is that of the steepest direction and t the smallest number
    that reaches the gap. As in `L2.shrink`, coordinates that meet the box are held, which raises t for the others,
    until none is added.
    """
    rise = expand(gap.sign(), grad) * grad
    unit, slope = threat.steepest(grad).abs(), grad.abs()
    if threat.box is None:
        room = torch.full_like(z, torch.inf)
    else:
        room = torch.where(rise > 0, threat.box[1] - z, z - threat.box[0])
    length = torch.zeros_like(gap)
    while True:
        held = expand(length, z) * unit >= room
        left = gap.abs() - _inner(slope, torch.where(held, room, 0))
        raised = (left / _inner(slope, torch.where(held, 0, unit))).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        if not (raised > length).any():
            return torch.minimum(expand(length, z) * unit, room).copysign(rise)
        length = torch.maximum(length, raised)
