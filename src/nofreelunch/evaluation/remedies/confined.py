"""Guided attacks at points that a model does not know attacks by: off the corners of the ball, among 8-bit images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.door import Precise, is_random
from nofreelunch.evaluation.remedies.straight import straight
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.evaluation.source import LEVELS, snapped
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Model

_SHIFT = 0.15
"""The share of the radius that a fixed random shift takes: off the corners, where attacks by sign end."""


def _through(place: Callable[[Inputs], Inputs], model: Model) -> Precise:
    """A model that answers for another place than the one it is asked for."""
    return Precise(lambda z: model(place(z)), None, random=is_random(model))


@final
@dataclass(frozen=True)
class Shifted:
    """A guided attack whose points are all moved by one random shift, for models that know the corners of the ball.

    Args:
        threat: the set.
        steps: gradient steps.
        surrogate: a differentiable function from inputs to logits.
    """

    threat: Threat
    steps: int
    surrogate: Model

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs, each in the ball at some distance from its corners."""
        inner, rest = (replace(self.threat, eps=share * self.threat.eps) for share in (1 - _SHIFT, _SHIFT))
        shift = rest.draw(x[:1], Streams.numbered(0, 1, x.device))
        surrogate, shifted = (_through(lambda z: self.threat.clip(z + shift), each) for each in (self.surrogate, model))
        z = SurrogatePGD(inner, self.steps, surrogate=surrogate)(shifted, x, y, rng)
        return self.threat.project(z + shift, x)


@final
@dataclass(frozen=True)
class Snapped:
    """A guided attack among 8-bit images only, for models that tell them from other inputs.

    Args:
        threat: the set.
        steps: gradient steps.
        surrogate: a differentiable function from inputs to logits.
        target_rank: as for `SurrogatePGD`.
    """

    threat: Threat
    steps: int
    surrogate: Model
    target_rank: int = 0

    @property
    def reach(self) -> float:
        """The radius that is left when steps are whole grey levels."""
        eps, level = self.threat.eps, self.threat.width / LEVELS
        return int(eps / level + 1e-6) * level if self.threat.separable else eps

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs whose pixels are levels of image files."""
        attack = SurrogatePGD(
            replace(self.threat, eps=self.reach),
            self.steps,
            surrogate=lambda z: self.surrogate(straight(self._snap(z), z)),
            target_rank=self.target_rank,
        )
        z = self._snap(attack(_through(self._snap, model), x, y, rng))
        level = self.threat.width / LEVELS
        inward = x + ((z - x) / level).trunc() * level
        return torch.where(expand(self.threat.contains(z, x), x), z, self._snap(inward))

    def _snap(self, z: Tensor) -> Tensor:
        return snapped(z, self.threat)
