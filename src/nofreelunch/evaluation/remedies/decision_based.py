"""Attacks that need nothing from the model but which class it names: neither gradients nor scores can mislead them."""

from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Best, Iterative, Search, State
from nofreelunch.attacks.losses import misclassified
from nofreelunch.errors import check_count
from nofreelunch.evaluation.remedies.bisection import bisected
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat, expand
from nofreelunch.types import Inputs, Labels, Mask, Model, PerExample

_HALVINGS = 8
"""A radius is found to 2^-8 of what it was."""


@final
@dataclass(frozen=True)
class OtherImages(Iterative[State]):
    """Tries the points of the set that are nearest to other images, to black, white, grey and to the negative.

    Args:
        threat: the set.
        steps: how many others are tried.
        pool: other images.
    """

    steps: int = 20
    pool: Tensor = field(kw_only=True, repr=False)

    def start(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> State:
        """The example itself."""
        return State(x, y, x, streams)

    def step(self, model: Model, state: State, count: int) -> tuple[State, Tensor]:
        """The model's answer at z, and the next image."""
        with torch.no_grad():
            logits = model(state.z)
        flat = state.x.flatten(1)
        low, high = (expand(end, state.x) for end in (flat.amin(1), flat.amax(1)))
        if self.threat.box is not None:
            low, high = (torch.full_like(end, value) for end, value in zip((low, high), self.threat.box, strict=True))
        plain = (low, high, (low + high) / 2)
        if count < len(plain):
            other = plain[count].expand_as(state.x)
        elif count == len(plain):
            other = low + high - state.x
        else:
            other = self.pool[state.streams.integers(len(self.pool))]
        return State(state.x, state.y, self.threat.project(other, state.x), state.streams), logits


@final
@dataclass(frozen=True)
class RaySearch(Search):
    """Looks for the direction in which the nearest misclassified point lies, and turns it block by block.

    After RayS (Chen and Gu 2020), here for l_2 too: a block of the direction is reversed, or set to 0, and the change
    is kept where the boundary is now nearer, which takes one question to see.

    Args:
        threat: the set.
        steps: changes tried.
        pool: other images; directions towards them are the first ones tried.
    """

    steps: int = 200
    pool: Tensor = field(kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)

    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """All steps, and a last look."""
        best, way = Best(x, model), _Rays(self.threat, model, x, y)
        others = self.pool[streams.integers(len(self.pool), 6)]
        for number in range(others.shape[1]):
            way.try_direction(self._first(others[:, number] - x), torch.ones_like(y, dtype=torch.bool))
        for count in range(self.steps):
            if not (far := way.radius > self.threat.eps).any():
                break
            way.try_direction(self._changed(way.direction, count), far)
        z = self.threat.project(way.at(way.direction, way.radius.clamp(max=self.threat.eps)), x)
        with torch.no_grad():
            best.offer(torch.arange(len(x), device=x.device), z, model(z), y)
        return best.z

    def _first(self, towards: Tensor) -> Tensor:
        """A direction of the ball's surface: its corners for l_inf."""
        return torch.where(towards < 0, -1.0, 1.0).to(towards) if self.threat.separable else towards

    def _changed(self, direction: Tensor, count: int) -> Tensor:
        """The direction with block `count` changed: halves, then quarters, and so on; set to 0 (l_2), reversed."""
        flat = direction.flatten(1).clone()
        length = flat.shape[1]
        turns = 1 if self.threat.separable else 2
        place, turn = divmod(count, turns)
        level = (place + 2).bit_length() - 1
        blocks = min(2**level, length)
        block = (place + 2 - 2**level) % blocks
        flat[:, block * length // blocks : (block + 1) * length // blocks] *= -1 if turn == turns - 1 else 0
        return flat.view_as(direction)


class _Rays:
    """For each example a direction, and the smallest radius along it that is known to be misclassified."""

    def __init__(self, threat: Threat, model: Model, x: Inputs, y: Labels) -> None:
        self._threat, self._model, self._x, self._y = threat, model, x, y
        self.direction = torch.zeros_like(x)
        self.radius = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def at(self, direction: Tensor, radius: PerExample) -> Inputs:
        """The points at this radius, in the box."""
        return self._at(torch.arange(len(self._x), device=self._x.device), direction, radius)

    def try_direction(self, direction: Tensor, wanted: Mask) -> None:
        """Take the direction where it is misclassified nearer than the one known."""
        reach = self._threat.spread(self._threat.width, direction)
        radius = self.radius.nan_to_num(posinf=reach)
        index = wanted.nonzero().squeeze(1)
        index = index[self._wrong(index, direction[index], radius[index])]
        if len(index) == 0:
            return
        wrong, far = partial(self._wrong, index, direction[index]), radius[index]
        near = bisected(wrong, torch.zeros_like(far), far, _HALVINGS)[1]
        self.direction[index], self.radius[index] = direction[index], near

    def _at(self, index: Labels, direction: Tensor, radius: PerExample) -> Inputs:
        x = self._x[index]
        z = x + expand(radius / self._threat.size(direction).double().clamp(min=1e-12), direction) * direction
        return self._threat.clip(z).to(x.dtype)

    def _wrong(self, index: Labels, direction: Tensor, radius: PerExample) -> Mask:
        with torch.no_grad():
            return misclassified(self._model(self._at(index, direction, radius)), self._y[index])
