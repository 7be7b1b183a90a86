"""An attack on models that see a function of each pixel, such as a wave or soft levels, which no one gradient tells."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.gradient import loss_gradient, value_and_gradient
from nofreelunch.attacks.losses import lead
from nofreelunch.attacks.targets import ranked_wrong_class
from nofreelunch.evaluation.remedies.bisection import bisected
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Model

_FARTHER = 4
"""Where the ball does not limit each pixel by itself, one may go so many times as far as all of them could."""
_FIRST = 0.7
"""So much of the radius may the half of the pixels spend that moves first: the rest is left to the other."""
_SMALLEST = 1e-6
"""The smallest multiplier tried, in shares of the one at which no pixel moves."""
_HALVINGS = 20
"""Of the logarithm of the multiplier."""


@final
@dataclass(frozen=True)
class CoordinateAscent:
    """Each pixel goes to the best of all values within its reach, by the profile of the margin over them.

    The profiles of half the pixels at a time are integrated from gradients at a few points at which these have moved
    together, each up or down. Where the ball limits the pixels together, a step costs its square times Lagrange's
    multiplier, the smallest at which the whole perturbation stays in the ball. Where the margin is a sum over pixels,
    as behind a linear network, and the ball an l_inf ball, that is the optimum but for the distance of the points;
    elsewhere what does not raise the margin is not done.

    Args:
        threat: the set.
        points: at which gradients are taken, from end to end of a pixel's reach; an odd number of them, at least 3,
            so that x itself is among them.
        rounds: how often every pixel has its turn.
        surrogate: a differentiable function from inputs to logits.
        target_rank: towards the surrogate's wrong class of this rank at x; 1 is the runner-up.
    """

    threat: Threat
    points: int
    rounds: int
    surrogate: Model
    target_rank: int = 1

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """The points reached; nothing is random but which pixels move together, always the same ones."""
        target = ranked_wrong_class(self.surrogate, x, y, self.target_rank)
        z, height = x, self._lead(x, y, target)
        for turn in range(self.rounds):
            half, direction = (self._signs(x, 2 * turn + part) for part in range(2))
            for number, moving in enumerate((half > 0, half <= 0)):
                radius = self.threat.eps * (_FIRST if turn == number == 0 else 1)
                tried = self._best(z, x, (y, target), torch.where(moving, direction, 0), radius)
                now = self._lead(tried, y, target)
                z, height = torch.where(expand(now > height, x), tried, z), torch.maximum(now, height)
        return self.threat.project(z, x)

    def _best(self, z: Inputs, x: Inputs, labels: tuple[Labels, Labels], direction: Tensor, radius: float) -> Inputs:
        """z with the pixels that have a direction where their profiles are highest, within a smaller ball."""
        reach, centre = self.threat.eps / self.threat.spread(1.0, x), max(1, self.points // 2)
        reach = reach if self.threat.separable else min(self.threat.eps, _FARTHER * reach)
        shares = torch.arange(-centre, centre + 1) / centre * reach
        places = [torch.where(direction != 0, self.threat.clip(x + share * direction), z) for share in shares.tolist()]
        slopes = torch.stack([loss_gradient(lead, self.surrogate, place, *labels) for place in places])
        values = torch.stack(places)
        rises = (slopes[1:] + slopes[:-1]) / 2 * values.diff(dim=0)
        gains = torch.cat([torch.zeros_like(rises[:1]), rises.cumsum(0)])
        gains = gains - gains[centre].clone()
        if self.threat.separable:
            return values.gather(0, gains.argmax(0, keepdim=True))[0]
        costs = (values - values[centre]).square()
        largest = (gains / costs).nan_to_num(nan=0.0, posinf=0.0).amax(0).flatten(1).amax(1)  # beyond it nothing moves

        def moved(place: Tensor) -> Inputs:
            multiplier = 2 * largest * _SMALLEST ** (1 - place)
            return values.gather(0, (gains - expand(multiplier, x) * costs).argmax(0, keepdim=True))[0]

        zero, one = torch.zeros_like(largest), torch.ones_like(largest)
        return moved(bisected(lambda place: self.threat.size(moved(place) - x) <= radius, zero, one, _HALVINGS)[1])

    def _lead(self, z: Inputs, y: Labels, target: Labels) -> Tensor:
        return value_and_gradient(lead, self.surrogate, z, y, target)[1]

    def _signs(self, x: Inputs, seed: int) -> Tensor:
        """+1 or -1 for each pixel, the same ones for all images."""
        one = Streams.numbered(seed, 1, x.device)
        return self.threat.draw(x[:1], one).sign()
