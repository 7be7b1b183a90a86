"""The l_2 ball: the Euclidean length of the perturbation is at most eps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nofreelunch.rng import Streams
from nofreelunch.threats.base import Threat, coordinates, expand
from nofreelunch.types import Inputs, PerExample


def _length(delta: Tensor) -> Tensor:
    """Euclidean length per example, in float64: squares of float32 numbers neither overflow nor vanish there."""
    length: Tensor = torch.linalg.vector_norm(delta, dim=coordinates(delta), dtype=torch.float64)
    return length


@dataclass(frozen=True)
class L2(Threat):
    """The perturbation is at most `eps` long.

    >>> L2(1.5)
    L2(eps=1.5, box=(0.0, 1.0))
    """

    norm: ClassVar[str] = "l2"
    symbol: ClassVar[str] = "ℓ₂"
    separable: ClassVar[bool] = False

    def size(self, delta: Inputs) -> PerExample:
        """The Euclidean length, in float64."""
        return _length(delta)

    def dual(self, grad: Inputs) -> PerExample:
        """The Euclidean length: the norm is its own dual."""
        return _length(grad)

    def steepest(self, grad: Inputs) -> Inputs:
        """The unit vector along the gradient, however small or large the gradient is."""
        # Dividing by the largest magnitude first keeps the squares away from underflow and overflow in any precision.
        tiny = torch.finfo(grad.dtype).tiny
        peak = grad.abs().amax(coordinates(grad), keepdim=True)
        direction = grad / peak.clamp(min=tiny)
        length = expand(_length(direction), grad)
        return direction.div_(length.clamp(min=tiny))

    def shrink(self, delta: Inputs, room: Inputs | None = None) -> Inputs:
        """Scaled to the ball; with limits, the exact minimiser over ball and limits.

        Its optimality conditions say: each coordinate is min(t |delta|, room) in magnitude, with one t in (0, 1] per
        example that makes the length eps. Holding the coordinates that have met their limit gives t for the others;
        each round adds coordinates to those held and raises t, so the loop ends at the solution, after few rounds.
        """
        scale = (self.eps / _length(delta)).nan_to_num(nan=1.0).clamp(max=1.0)
        if room is None:
            return delta * expand(scale, delta).to(delta.dtype)
        magnitude = delta.abs()
        while True:
            moved = magnitude * expand(scale, delta).to(delta.dtype)
            held = moved >= room
            left = (self.eps**2 - _length(torch.where(held, room, 0.0)) ** 2).clamp(min=0).sqrt()
            raised = (left / _length(magnitude.masked_fill(held, 0.0))).nan_to_num(nan=1.0).clamp(max=1.0)
            if not (raised > scale).any():
                return torch.minimum(moved, room).copysign(delta)
            scale = torch.maximum(scale, raised)

    def draw(self, like: Inputs, streams: Streams) -> Inputs:
        """A Gaussian direction, at a radius whose d-th power is uniform."""
        direction = self.steepest(streams.normal(*like.shape[1:], dtype=like.dtype))
        radius = streams.uniform(dtype=torch.float64) ** (1 / max(1, like[0:1].numel()))
        return direction * expand(self.eps * radius, like).to(like.dtype)
