"""What the checks of a model's answers look at, and when two answers are the same."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nofreelunch.evaluation.subject import Subject
from nofreelunch.types import Inputs, Labels

_TOLERANCE = 1e-3
"""Answers are the same if they differ by less than this share of their spread: kernels round differently."""


@dataclass(frozen=True)
class Probe:
    """What the checks look at.

    Args:
        subject: the model.
        x: some examples.
        y: their labels.
        near: a random point of the threat's set around each, so that what shows only off the data is seen as well.
        width: of the pixels' range.
        batch: examples that attacks ask about at a time, at most.
    """

    subject: Subject
    x: Inputs
    y: Labels
    near: Inputs
    width: float
    batch: int

    @property
    def both(self) -> Inputs:
        """The examples and the points near them."""
        return torch.cat([self.x, self.near])

    @property
    def labels(self) -> Labels:
        """The labels of `both`."""
        return torch.cat([self.y, self.y])


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Which rows of logits are not the same; (n,)."""
    a, b = a.double(), b.double()
    finite = torch.where(b.isfinite(), b, 0)
    spread = (finite.amax(1) - finite.amin(1)).clamp(min=torch.finfo(torch.float64).tiny)
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0, (a - b).abs().nan_to_num(nan=torch.inf)).amax(1)
    return gap > _TOLERANCE * spread


def behind(logits: Tensor) -> Tensor:
    """How far each logit is behind the largest: what all classes have in common decides nothing."""
    return logits - logits.amax(1, keepdim=True)


def counted(mask: Tensor) -> str:
    """A mask in words."""
    return f"{int(mask.sum())} of {len(mask)}"
