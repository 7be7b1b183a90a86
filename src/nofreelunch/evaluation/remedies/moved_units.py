"""Units of a model, moved as far as a threat lets them, whatever the scores say; its answers tell what comes of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Best, Search
from nofreelunch.evaluation.remedies.lagrangian import unit_slope
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs, Labels, Model

Unit: TypeAlias = tuple[int, int]
"""Which of the layers that are read, and which of its units."""
Group: TypeAlias = tuple[Unit, ...]
"""Units that are moved together."""
Heights: TypeAlias = Callable[[Inputs], list[Tensor]]
"""How high the units of each layer are, (n, units), with a slope."""


@final
@dataclass(frozen=True)
class Moved(Search):
    """Goes as far up as each group of units lets it, and on from where the scores are worst.

    Args:
        threat: the set.
        steps: of PGD, after that.
        heights: of the model's units.
        groups: of them.
        marks: places looked at on the way to where a group is, to first order, as far up as it goes.
        surrogate: the function that PGD differentiates.
    """

    steps: int
    heights: Heights = field(kw_only=True, repr=False)
    groups: tuple[Group, ...] = field(kw_only=True)
    marks: int = 1
    surrogate: Model = field(kw_only=True)

    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """All groups, and all steps."""
        best, rows = Best(x, model), torch.arange(len(x), device=x.device)
        for _, points in self.ways(x):
            for z in points:
                with torch.no_grad():
                    best.offer(rows, z, model(z), y)
            if best.broken.all():
                return best.z
        climb = SurrogatePGD(self.threat, self.steps, surrogate=self.surrogate)
        return climb.follow(model, replace(climb.start(model, x, y, streams), z=best.z))

    def ways(self, x: Inputs) -> Iterator[tuple[Group, list[Inputs]]]:
        """For each group the points on the way, the farthest first."""
        at = x.detach().requires_grad_()
        with torch.enable_grad():
            heights = self.heights(at)
        for group in self.groups:
            slope = torch.zeros_like(x)
            for layer, unit in group:
                if layer < len(heights) and unit < heights[layer].shape[1]:  # else these images go another way
                    slope += unit_slope(self.threat, heights[layer][:, unit], at)
            away = self.threat.eps * self.threat.steepest(slope)
            yield group, [self.threat.project(x + mark / self.marks * away, x) for mark in range(self.marks, 0, -1)]
