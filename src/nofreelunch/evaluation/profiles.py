"""An attack on models that see a function of each pixel, such as a wave or soft levels, which no one gradient tells."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.gradient import input_gradient, value_and_gradient
from nofreelunch.attacks.losses import lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Mask, Model


@final
@dataclass(frozen=True)
class Profiles:
    """Each pixel goes to the best of all values within its reach, by the profile of the margin over them.

    The profiles of half the pixels at a time are integrated from gradients at a few points at which these have moved
    together, each up or down. Where the margin is a sum over pixels, as behind a linear network, that is the optimum
    but for the distance of the points; elsewhere what does not raise the margin is not done.

    Args:
        threat: an l_inf ball, in which every pixel may move whatever others do.
        points: at which gradients are taken, from one end of the ball to the other.
        rounds: how often every pixel has its turn.
        guide: a differentiable function from inputs to logits.
        target_rank: towards the guide's wrong class of this rank at x; 1 is the runner-up.
    """

    threat: Threat
    points: int
    rounds: int
    guide: Model
    target_rank: int = 1

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """The points reached; nothing is random but which pixels move together, always the same ones."""
        target = ranked_wrong_class(self.guide, x, y, self.target_rank)
        z, height = x, self._height(x, y, target)
        for turn in range(self.rounds):
            half, direction = (self._signs(x, 2 * turn + part) for part in range(2))
            for moving in (half > 0, half <= 0):
                tried = self._best(z, x, (y, target), moving, direction)
                now = self._height(tried, y, target)
                z, height = torch.where(expand(now > height, x), tried, z), torch.maximum(now, height)
        return self.threat.project(z, x)

    def _best(self, z: Inputs, x: Inputs, labels: tuple[Labels, Labels], moving: Mask, direction: Tensor) -> Inputs:
        """z with the moving pixels where their profiles are highest."""

        def at(share: float) -> tuple[Inputs, Inputs]:
            """Where the pixels are, so far from end to end of the ball, and the gradient there."""
            place = self.threat.clip(x + share * self.threat.eps * direction)
            return place, input_gradient(lead, self.guide, torch.where(moving, place, z), *labels)

        first, *others = torch.linspace(-1, 1, self.points).tolist()
        before, slope = at(first)
        best, gain, highest = before, torch.zeros_like(z), torch.zeros_like(z)
        for place, ahead in map(at, others):
            gain = gain + (slope + ahead) / 2 * (place - before)
            best, highest = torch.where(gain > highest, place, best), torch.maximum(gain, highest)
            before, slope = place, ahead
        return torch.where(moving, best, z)

    def _height(self, z: Inputs, y: Labels, target: Labels) -> Tensor:
        return value_and_gradient(lead, self.guide, z, y, target)[1]

    def _signs(self, x: Inputs, seed: int) -> Tensor:
        """+1 or -1 for each pixel, the same ones for all images."""
        one = Streams.for_examples(seed, torch.zeros(1, dtype=torch.long, device=x.device))
        return self.threat.draw(x[:1], one).sign()
