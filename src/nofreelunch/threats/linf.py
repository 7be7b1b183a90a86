"""The l_inf ball: every coordinate may move by at most eps."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from nofreelunch.errors import InputError
from nofreelunch.rng import Streams
from nofreelunch.threats.base import Threat, coordinates
from nofreelunch.types import Inputs, PerExample


@dataclass(frozen=True)
class Linf(Threat):
    """Each coordinate may move by at most `eps`; in a box, `eps` is at most its width.

    >>> Linf(0.3)
    Linf(eps=0.3, box=(0.0, 1.0))
    """

    norm: ClassVar[str] = "linf"
    symbol: ClassVar[str] = "ℓ∞"
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box is not None and self.eps > self.width:
            raise InputError(
                f"eps={self.eps:g}: for images in [{self.box[0]:g}, {self.box[1]:g}] "
                f"did you mean {self.eps:g}/255 = {self.eps / 255:.4g}?"
            )

    def size(self, delta: Inputs) -> PerExample:
        """The largest magnitude."""
        return delta.abs().amax(coordinates(delta))

    def dual(self, grad: Inputs) -> PerExample:
        """The l_1 norm."""
        return grad.abs().sum(coordinates(grad))

    def steepest(self, grad: Inputs) -> Inputs:
        """The signs."""
        return grad.sign()

    def shrink(self, delta: Inputs, room: Inputs | None = None) -> Inputs:
        """Each coordinate clamped by itself."""
        if room is not None:
            delta = torch.minimum(delta, room).maximum(-room)
        return delta.clamp(-self.eps, self.eps)

    def draw(self, like: Inputs, streams: Streams) -> Inputs:
        """Independent uniform coordinates."""
        return streams.uniform(*like.shape[1:], dtype=like.dtype).mul_(2 * self.eps).sub_(self.eps)
