"""Gradient ascent on one function to break another."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks import Attack
from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.gradient import loss_gradient, value_and_gradient
from nofreelunch.attacks.losses import ce, lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.errors import check_count, check_number
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs, Labels, Model


@dataclass(frozen=True)
class _Masked(State):
    """free is 1 where a coordinate may move, and else 0."""

    free: Tensor


@final
@dataclass(frozen=True)
class SurrogatePGD(Iterative[_Masked]):
    """PGD that follows the gradient of a surrogate, while the model under attack says whether it has succeeded.

    With the model itself as surrogate it is PGD; with another model a transfer attack (Papernot et al. 2017); with a
    smooth stand-in for the model backward pass differentiable approximation (Athalye et al. 2018).

    Args:
        threat: the set.
        steps: gradient steps, each 2.5 eps / steps long.
        surrogate: a differentiable function from inputs to logits.
        target_rank: towards the wrong class of this rank (1 is the surrogate's runner-up); 0: away from the label.
        share: of the coordinates, those with the largest gradient at x; the others stay, for models that know attacks
            by how much of an image they change.
    """

    steps: int = 20
    surrogate: Model = field(kw_only=True)
    target_rank: int = 0
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("target_rank", self.target_rank, 0)
        check_number("share", self.share, 0, 1, open_low=True)

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> _Masked:
        """At a random point of the set."""
        target = ranked_wrong_class(self.surrogate, x, y, self.target_rank) if self.target_rank else None
        z, free = self.threat.random_start(x, streams), torch.ones_like(x)
        if self.share < 1:
            slope = loss_gradient(ce, self.surrogate, x, y).abs().flatten(1)
            least = slope.topk(max(1, round(self.share * slope.shape[1])), dim=1).values[:, -1:]
            free = (slope >= least).view_as(x).to(x.dtype)
        return _Masked(x, y, torch.where(free > 0, z, x), streams, free, target=target)

    def step(self, model: Model, state: _Masked, count: int) -> tuple[_Masked, Tensor]:
        """The model's answer at z, then a step up the surrogate."""
        loss, labels = (ce, (state.y,)) if state.target is None else (lead, (state.y, state.target))
        logits, _, grad = value_and_gradient(loss, self.surrogate, state.z, *labels)
        if model is not self.surrogate:
            with torch.no_grad():
                logits = model(state.z)
        length = 2.5 * self.threat.eps / self.steps
        ahead = self.threat.steepest(state.free * grad.to(state.z.dtype))
        z = self.threat.project(state.z + length * ahead, state.x)
        return replace(state, z=z), logits


@final
@dataclass(frozen=True)
class Transferred:
    """What breaks a surrogate, tried on the model (Papernot et al. 2017).

    Args:
        attack: any.
        surrogate: what it is run on.
    """

    attack: Attack
    surrogate: Model

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Inputs that the surrogate gets wrong, where the attack found any."""
        return self.attack(self.surrogate, x, y, rng)
