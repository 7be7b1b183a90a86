"""An attack that takes its gradients where the answer changes: what the scores do elsewhere cannot mislead it.

After Brendel et al. 2019, "Accurate, reliable and fast robustness evaluation".
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Best, Search
from nofreelunch.attacks.gradient import loss_gradient
from nofreelunch.attacks.losses import margin, misclassified
from nofreelunch.evaluation.remedies.bisection import between, bisected
from nofreelunch.rng import Streams
from nofreelunch.threats import expand
from nofreelunch.types import Inputs, Labels, Mask, Model, PerExample

_HALVINGS = 8
_FAR = (8.0, 5.0, 3.0, 2.0, 1.5, 1.0)
"""Radii, the nearest last, at which a point beyond the boundary is looked for along a new way."""
_DRAWN = 3
"""Images drawn for one that is needed: some are of the example's own class."""


@final
@dataclass(frozen=True)
class BoundaryGradient(Search):
    """From each example towards another image until the answer changes; the gradient there is the next way to go.

    Args:
        threat: the set.
        turns: gradients taken between an example and an image.
        starts: images for each example.
        steps: of ascent from the last crossing's nearest point of the set.
        surrogate: a differentiable function from inputs to logits.
        pool: images.
    """

    turns: int
    starts: int
    steps: int
    surrogate: Model = field(kw_only=True)
    pool: Tensor = field(kw_only=True, repr=False)

    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """All ways, one after the other."""
        best, rows = Best(x, model), torch.arange(len(x), device=x.device)
        for start in self._others(model, y, streams):
            for z in self._points(model, x, y, start):
                with torch.no_grad():
                    best.offer(rows, z, model(z), y)
        return best.z

    def _others(self, model: Model, y: Labels, streams: Streams) -> Iterator[Inputs]:
        """For each example images that the model takes for another class, where that many are drawn."""
        with torch.no_grad():
            seen = model(self.pool).argmax(1)
        drawn = streams.integers(len(self.pool), _DRAWN * self.starts)
        order = torch.argsort((seen[drawn] == y[:, None]).int(), dim=1, stable=True)
        for column in drawn.gather(1, order)[:, : self.starts].T:
            yield self.pool[column]

    def _points(self, model: Model, x: Inputs, y: Labels, beyond: Inputs) -> Iterator[Inputs]:
        """Points of the set, first along the gradients at crossings, then up from the last one."""
        radius, way, crossing = self.threat.eps, torch.zeros_like(x), beyond
        for _ in range(self.turns):
            crossing = self._crossing(model, x, y, beyond)
            grad = loss_gradient(margin, self.surrogate, crossing, y)
            way = way + self.threat.unit(grad)
            ahead = self.threat.steepest(way)
            yield self.threat.project(x + _FAR[0] * radius * ahead, x)
            beyond = crossing
            for length in _FAR:
                z = self.threat.clip(x + length * radius * ahead)
                beyond = torch.where(expand(_wrong(model, z, y), z), z, beyond)
        z = self.threat.project(crossing, x)
        for _ in range(self.steps):
            yield z
            grad = loss_gradient(margin, self.surrogate, z, y)
            z = self.threat.project(z + 2.5 * radius / self.steps * self.threat.steepest(grad), x)
        yield z

    def _crossing(self, model: Model, x: Inputs, y: Labels, beyond: Inputs) -> Inputs:
        """Where the answer changes between x and a point, on the far side."""

        def wrong(share: PerExample) -> Mask:
            return _wrong(model, between(x, beyond, share), y)

        start = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return between(x, beyond, bisected(wrong, start, torch.ones_like(start), _HALVINGS)[1])


def _wrong(model: Model, z: Inputs, y: Labels) -> Mask:
    with torch.no_grad():
        return misclassified(model(z), y)
