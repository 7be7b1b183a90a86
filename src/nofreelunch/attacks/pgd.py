"""Projected gradient ascent (Madry et al. 2018; Tsipras et al. 2018, Appendix A.3), and its one-step case."""

import warnings
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Iterative, State
from nofreelunch.attacks.gradient import value_and_gradient
from nofreelunch.attacks.losses import named_loss
from nofreelunch.errors import check_number
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, check_threat
from nofreelunch.types import Inputs, Labels, Loss, Model


@final
@dataclass(frozen=True)
class PGD(Iterative[State]):
    """z <- project(z + step_size * steepest(gradient of the loss at z)), from a random point of the set or from x.

    Args:
        threat: the set; its norm says what steepest means: signs for l_inf, the unit vector for l_2.
        steps: gradient steps.
        step_size: length of a step in the norm, in input units; None: 2.5 eps / steps, of whatever eps and steps are
            when the attack runs.
        loss: what to climb, a name in `LOSSES` or a callable (logits, y) -> (n,).
        random_start: whether to start from a random point of the set.

    Raises:
        InputError: if a number is out of range.
    """

    steps: int = 40
    step_size: float | None = None
    loss: str | Loss = "ce"
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        named_loss(self.loss)
        if self.step_size is None:
            return
        check_number("step_size", self.step_size, 0.0, float("inf"), open_low=self.threat.eps > 0)
        if told := caution(self.threat, self.steps, self.step_size):
            warnings.warn(told, stacklevel=3)  # to the line that makes the attack

    @property
    def length(self) -> float:
        """Length of a step, in the norm."""
        return 2.5 * self.threat.eps / self.steps if self.step_size is None else float(self.step_size)

    def ascend(self, model: Model, x: Inputs, y: Labels, rng: torch.Generator | Streams) -> Inputs:
        """The last iterate on every example, misclassified or not: the inner maximum of adversarial training.

        Nothing is checked and the model's mode is the caller's; no example leaves.
        """
        state = self.start(model, x, y, Streams.of(rng, len(x), x.device))
        for count in range(self.steps):
            state, _ = self.step(model, state, count)
        return state.z

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> State:
        """At x or at a random point of the set."""
        return State(x, y, self.threat.random_start(x, streams) if self.random_start else x, streams)

    def step(self, model: Model, state: State, count: int) -> tuple[State, Tensor]:
        """One step up, and back into the set."""
        logits, _, grad = value_and_gradient(named_loss(self.loss), model, state.z, state.y)
        z = torch.add(state.z, self.threat.steepest(grad), alpha=self.length)
        return replace(state, z=self.threat.project(z, state.x)), logits


def caution(threat: Threat, steps: int, step_size: float) -> str | None:
    """What is probably a mistake about so many steps of such a length, in a sentence."""
    if steps * step_size >= threat.eps * (1 - 1e-9):
        return None
    return f"{steps} steps of {step_size:g} cannot reach the surface of a ball of radius {threat.eps:g}"


def fgsm(threat: Threat) -> PGD:
    """One step of full length from x (Goodfellow et al. 2015): PGD's shortest case."""
    return PGD(threat, steps=1, step_size=check_threat(threat).eps, random_start=False)
