"""A threat: the set of inputs that an adversary may put in place of `x`.

It is the part of a norm ball around `x` that lies in the pixel box. Five short methods say what the norm is; everything
else about the set is written here, once.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, TypeAlias, final

import torch
from torch import Tensor

from nofreelunch.errors import InputError, check_number
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs, Mask, PerExample


def coordinates(x: Tensor) -> tuple[int, ...]:
    """The dimensions of a batch that hold one example."""
    return tuple(range(1, x.dim()))


def expand(value: Tensor, like: Tensor) -> Tensor:
    """A value per example, in a shape that broadcasts against `like`."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


Box: TypeAlias = tuple[float | int, float | int] | None
"""Range of every coordinate; None for all numbers."""


def check_box(box: Box) -> Box:
    """The box if it is one; an `InputError` otherwise."""
    if box is not None:
        are_numbers = isinstance(box, tuple) and [isinstance(end, (int, float)) for end in box] == [True, True]
        if not (are_numbers and -inf < box[0] < box[1] < inf):
            raise InputError(f"box must be (low, high), finite, with low < high, or None, got {box!r}")
    return box


_NEGLIGIBLE = 1e-4
"""The share of the radius that is given up to be safe from rounding; where it would take more, points are checked."""


@dataclass(frozen=True)
class Threat(ABC):
    """All inputs within `eps` of `x` whose every coordinate lies in `box`.

    Args:
        eps: the radius, finite and at least 0, in the unit of the inputs (8 / 255, never 8).
        box: the allowed range of a coordinate, finite; None for inputs that have no range. `x` itself must lie in it.

    The norm of a vector with a single 1 is at least 1, so that no coordinate moves by more than eps: interval bounds
    count on it.

    Attributes:
        norm: name in `THREATS`.
        symbol: the same as people write it.
        separable: whether the ball limits each coordinate by itself, so that to project onto ball, then box is exact.

    Raises:
        InputError: if the radius or the box is not one.
    """

    norm: ClassVar[str]
    symbol: ClassVar[str]
    separable: ClassVar[bool]
    eps: float
    box: Box = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0, float("inf")))
        check_box(self.box)

    @final
    def to_plain(self) -> dict[str, Any]:
        """The threat in JSON's types: its name, its radius and its box; `threats.from_plain` reads it."""
        return {"norm": self.norm, "eps": self.eps, "box": self.box}

    @final
    @property
    def width(self) -> float:
        """Width of the box, the unit of the inputs; 1 without a box."""
        return 1.0 if self.box is None else self.box[1] - self.box[0]

    @final
    def clip(self, z: Inputs) -> Inputs:
        """The nearest point to `z` in the box."""
        return z if self.box is None else z.clamp(*self.box)

    @final
    def spread(self, amount: float, like: Tensor) -> float:
        """The size of a perturbation of `amount` in every coordinate of an example."""
        return float(self.size(torch.full((1, *like.shape[1:]), amount, dtype=torch.float64)))

    @final
    def check_reach(self, x: Tensor, name: str) -> None:
        """An `InputError` if no two images like those of x, of the data set of this name, are a radius apart."""
        reach = self.spread(self.width, x)
        if self.eps > reach:
            hint = f"did you mean {self.eps:g}/255 = {self.eps / 255:.4g}?"
            raise InputError(f"eps={self.eps:g}: images of {name} are at most {reach:.4g} apart; {hint}")

    @abstractmethod
    def size(self, delta: Inputs) -> PerExample:
        """The norm of each example's perturbation."""

    @final
    def unit(self, grad: Tensor) -> Tensor:
        """The gradient scaled to length one in the dual norm; 0 stays 0."""
        return grad / expand(self.dual(grad).clamp(min=torch.finfo(grad.dtype).tiny), grad).to(grad.dtype)

    @abstractmethod
    def dual(self, grad: Inputs) -> PerExample:
        """The dual norm: the largest <grad, d> over all d of size at most 1."""

    @abstractmethod
    def steepest(self, grad: Inputs) -> Inputs:
        """A d of size at most 1 with <grad, d> = dual(grad); 0 where the gradient is 0."""

    @abstractmethod
    def shrink(self, delta: Inputs, room: Inputs | None = None) -> Inputs:
        """The nearest point of the ball whose coordinates are at most `room` (>= 0; None for no limit) in magnitude.

        A new tensor: the caller may write into it.
        """

    @abstractmethod
    def draw(self, like: Inputs, streams: Streams) -> Inputs:
        """A point drawn uniformly from the ball for each example."""

    @final
    def project(self, z: Inputs, x: Inputs) -> Inputs:
        """The nearest point to `z` in the set around `x`, up to rounding, which never leaves it outside the set."""
        if self.box is None:
            return self._settle(x + self.shrink(z - x), x)
        low, high = self.box
        slack = 2 * torch.finfo(x.dtype).eps * max(abs(low), abs(high), high - low)
        rounding = self.spread(slack, x)
        if rounding < _NEGLIGIBLE * self.eps:  # keep that much away from the surface, and nothing need be checked
            return replace(self, eps=self.eps - rounding)._nearest(z, x).clamp_(low, high)
        return self._settle(self._nearest(z, x).clamp_(low, high), x)

    @final
    def random_start(self, x: Inputs, rng: "torch.Generator | Streams") -> Inputs:
        """A random point of the set around each `x`: one of the ball, projected."""
        return self.project(x + self.draw(x, Streams.of(rng, len(x), x.device)), x)

    @final
    def contains(self, z: Inputs, x: Inputs) -> Mask:
        """Whether each `z` lies in the set around its `x`; measured in float64, without tolerance."""
        inside = self.size(z.double() - x.double()) <= self.eps
        if self.box is None:
            return inside
        low, high = self.box
        return inside & ((z >= low) & (z <= high)).flatten(1).all(1)

    def _nearest(self, z: Tensor, x: Tensor) -> Tensor:
        """The nearest point of ball and box, where the box is yet to be imposed if the ball is separable."""
        delta = z - x
        if self.separable or self.box is None:
            return self.shrink(delta).add_(x)
        return self.shrink(delta, torch.where(delta > 0, self.box[1] - x, x - self.box[0])).add_(x)

    def _settle(self, z: Tensor, x: Tensor) -> Tensor:
        """`z` moved towards `x` by rounding errors until rounding no longer leaves it outside the ball."""
        while True:
            outside = self.size(z.double() - x.double()) > self.eps
            if not outside.any():
                return z
            size = torch.maximum(z.abs(), x.abs()) * torch.finfo(z.dtype).eps
            unit = expand(outside, z) * size.clamp(min=torch.finfo(z.dtype).tiny)
            z = torch.where(z > x, torch.maximum(z - unit, x), torch.minimum(z + unit, x))


def check_threat(value: object) -> Threat:
    """The value if it is a threat; an `InputError` otherwise."""
    if not isinstance(value, Threat):
        raise InputError(f"threat must be a threat such as Linf(8 / 255), got {value!r}")
    return value


def check_box_of_images(threat: Threat) -> None:
    """An `InputError` if the threat's unit is not that of images, whose pixels are in [0, 1]."""
    if threat.box not in (None, (0.0, 1.0)):
        raise InputError(
            f"the pixels of images are in [0, 1], and so must be the threat's box, got box={threat.box}; "
            "leave the box away, and give eps in that unit, such as 8/255"
        )


def format_radius(eps: float) -> str:
    """A radius as people write it.

    >>> format_radius(0.3), format_radius(8 / 255)
    ('0.3', '8/255')
    """
    levels = eps * 255
    fraction = abs(levels - round(levels)) < 1e-9 and levels > 0 and abs(eps * 1000 % 1) > 1e-9
    return f"{round(levels)}/255" if fraction else f"{eps:.4g}"
