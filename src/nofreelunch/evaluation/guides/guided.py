"""Gradient ascent on one function to break another."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.gradient import value_and_gradient
from nofreelunch.attacks.losses import ce, lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.errors import check_count
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs, Labels, Model


@final
@dataclass(frozen=True)
class Guided(Iterative[State]):
    """PGD that follows the gradient of a guide, while the model under attack says whether it has succeeded.

    With the model itself as guide it is PGD; with another model a transfer attack (Papernot et al. 2017); with a smooth
    stand-in for the model backward pass differentiable approximation (Athalye et al. 2018).

    Args:
        threat: the set.
        steps: gradient steps, each 2.5 eps / steps long.
        guide: a differentiable function from inputs to logits.
        target_rank: towards the wrong class of this rank (1 is the guide's runner-up); 0: away from the label.
    """

    steps: int = 20
    guide: Model = field(kw_only=True)
    target_rank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("target_rank", self.target_rank, 0)

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> State:
        """At a random point of the set."""
        target = ranked_wrong_class(self.guide, x, y, self.target_rank) if self.target_rank else None
        return State(x, y, self.threat.random_start(x, streams), streams, target=target)

    def step(self, model: Model, state: State, count: int) -> tuple[State, Tensor]:
        """The model's answer at z, then a step up the guide."""
        loss, labels = (ce, (state.y,)) if state.target is None else (lead, (state.y, state.target))
        logits, _, grad = value_and_gradient(loss, self.guide, state.z, *labels)
        if model is not self.guide:
            with torch.no_grad():
                logits = model(state.z)
        length = 2.5 * self.threat.eps / self.steps
        z = self.threat.project(state.z + length * self.threat.steepest(grad.to(state.z.dtype)), state.x)
        return replace(state, z=z), logits
