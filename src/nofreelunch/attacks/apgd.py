"""Auto-PGD: gradient ascent that chooses its own step size (Croce and Hein 2020, Algorithm 1)."""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.gradient import value_and_gradient
from nofreelunch.attacks.losses import TARGETED, dlr_targeted, named_loss
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.errors import InputError, check_count
from nofreelunch.rng import Streams
from nofreelunch.threats import expand
from nofreelunch.types import Inputs, Labels, Loss, Model

_MOMENTUM = 0.75
_ENOUGH_RISES = 0.75
"""A step size is kept while at least this share of its steps raise the loss (rho)."""


def checkpoints(steps: int) -> tuple[int, ...]:
    """When the step size is reconsidered: after 22 % of the steps, then after gaps that shrink by 3 % down to 6 %."""
    percent, gap, marks = 22, 22, []
    while percent <= 100:
        marks.append(math.ceil(percent * steps / 100))
        gap = max(gap - 3, 6)
        percent += gap
    return tuple(marks)


@dataclass(frozen=True)
class _Climb(State):
    """Where the climb stands: the iterate before z, the best point, its gradient and loss, step size, record."""

    before: Tensor
    top: Tensor
    top_grad: Tensor
    top_loss: Tensor
    last_loss: Tensor
    step_size: Tensor
    rises: Tensor
    top_loss_at_mark: Tensor
    halved_at_mark: Tensor


@final
@dataclass(frozen=True)
class APGD(Iterative[_Climb]):
    """Projected ascent with momentum, whose step starts at 2 eps and halves when it no longer helps.

    When it halves, the ascent goes back to the best point seen and starts again from rest.

    Args:
        threat: the set.
        steps: gradient steps.
        loss: what to climb, a name in `LOSSES` or a callable; "dlr-targeted" climbs towards a wrong class.
        target_rank: for the targeted loss: its target is the wrong class with this rank at x (1 is the runner-up).
        random_start: whether to start from a random point of the set.

    Raises:
        InputError: if a number is out of range or the loss is unknown.
    """

    steps: int = 100
    loss: str | Loss = "ce"
    target_rank: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("target_rank", self.target_rank)
        if not self._targeted:
            named_loss(self.loss)
            if self.target_rank != 1:
                raise InputError(f'target_rank is for the loss "{TARGETED}", got {self.target_rank} for {self.loss!r}')

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> _Climb:
        """At x or at a random point, with the longest step."""
        lowest = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float64)
        z = self.threat.random_start(x, streams) if self.random_start else x
        return _Climb(
            x=x,
            y=y,
            z=z,
            streams=streams,
            target=ranked_wrong_class(model, x, y, self.target_rank) if self._targeted else None,
            before=z,
            top=z,
            top_grad=torch.zeros_like(x),
            top_loss=lowest,
            last_loss=-lowest,
            step_size=torch.full_like(lowest, 2 * self.threat.eps),
            rises=torch.zeros_like(y),
            top_loss_at_mark=lowest,
            halved_at_mark=torch.ones_like(y, dtype=torch.bool),
        )

    def step(self, model: Model, state: _Climb, count: int) -> tuple[_Climb, Tensor]:
        """Equation 1 of the paper, then its two conditions where `count` is a checkpoint."""
        logits, value, grad = self._look(model, state)
        better = value > state.top_loss
        state = replace(
            state,
            top=torch.where(expand(better, grad), state.z, state.top),
            top_grad=torch.where(expand(better, grad), grad, state.top_grad),
            top_loss=torch.where(better, value, state.top_loss),
            rises=state.rises + (value > state.last_loss),
            last_loss=value,
        )
        if count in checkpoints(self.steps):
            state, grad = self._reconsider(state, grad, count)
        return self._move(state, grad, 1.0 if count == 0 else _MOMENTUM), logits

    @property
    def _targeted(self) -> bool:
        return self.loss == TARGETED

    def _look(self, model: Model, state: _Climb) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses and gradients at the iterates."""
        loss, labels = (
            (named_loss(self.loss), (state.y,)) if state.target is None else (dlr_targeted, (state.y, state.target))
        )
        logits, value, grad = value_and_gradient(loss, model, state.z, *labels)
        return logits, value.double(), grad

    def _reconsider(self, state: _Climb, grad: Tensor, count: int) -> tuple[_Climb, Tensor]:
        """Halve the step and go back to the best point where too few steps rose, or an unhalved step gained nothing."""
        marks = checkpoints(self.steps)
        length = count - ([0, *marks])[marks.index(count)]
        stuck = ~state.halved_at_mark & (state.top_loss_at_mark >= state.top_loss)
        halve = (state.rises < _ENOUGH_RISES * length) | stuck
        back = expand(halve, grad)
        z = torch.where(back, state.top, state.z)
        state = replace(
            state,
            z=z,
            before=torch.where(back, z, state.before),
            step_size=torch.where(halve, state.step_size / 2, state.step_size),
            rises=torch.zeros_like(state.rises),
            top_loss_at_mark=state.top_loss,
            halved_at_mark=halve,
        )
        return state, torch.where(back, state.top_grad, grad)

    def _move(self, state: _Climb, grad: Tensor, share: float) -> _Climb:
        """A share of a projected gradient step, and of the last move the rest."""
        step = expand(state.step_size, grad).to(grad.dtype) * self.threat.steepest(grad)
        ahead = self.threat.project(state.z + step, state.x)
        z = state.z + share * (ahead - state.z) + (1 - share) * (state.z - state.before)
        return replace(state, z=self.threat.project(z, state.x), before=state.z)
