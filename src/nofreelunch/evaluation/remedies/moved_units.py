"""Units of a model, moved as far as a threat lets them, whatever the scores say; its answers tell what comes of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
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
Heights: TypeAlias = Callable[[Inputs], Sequence[Tensor]]
"""How high the units of each layer are, (n, units), with a slope."""

_NUMBERS = 2**18
"""So many numbers of inputs are looked at together, or as many as there are examples."""


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
        for points, _ in self.ways(x):
            for z in torch.split(points, len(x)):
                with torch.no_grad():
                    best.offer(rows, z, model(z), y)
            if best.broken.all():
                return best.z
        climb = SurrogatePGD(self.threat, self.steps, surrogate=self.surrogate)
        return climb.follow(model, replace(climb.start(model, x, y, streams), z=best.z))

    def ways(self, x: Inputs) -> Iterator[tuple[Inputs, list[Group]]]:
        """Some groups at a time, and the points on their ways: mark by mark, the farthest first, group by group."""
        together = max(1, _NUMBERS // x.numel())
        for first in range(0, len(self.groups), together):
            groups = self.groups[first : first + together]
            at = x.repeat(len(groups), *[1] * (x.dim() - 1))
            away = self.threat.eps * self.threat.steepest(self._slope(at, groups))
            lengths = (mark / self.marks for mark in range(self.marks, 0, -1))
            yield torch.cat([self.threat.project(at + length * away, at) for length in lengths]), list(groups)

    def _slope(self, x: Inputs, groups: Sequence[Group]) -> Inputs:
        """Of each group at its part of the points: the sum of its units' slopes, each of length one."""
        at = x.detach().requires_grad_()
        with torch.enable_grad():
            heights = self.heights(at)
        slope = torch.zeros_like(x)
        for units in zip_longest(*groups):
            parts = [
                torch.chunk(heights[unit[0]], len(groups))[place][:, unit[1]].sum()
                for place, unit in enumerate(units)
                if unit is not None and unit[0] < len(heights) and unit[1] < heights[unit[0]].shape[1]
            ]  # others are not there: these images go another way
            slope += unit_slope(self.threat, torch.stack(parts) if parts else None, at)
        return slope
