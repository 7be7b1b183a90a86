"""What is known of each example so far: a few numbers, however large the examples are."""

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from nofreelunch.evaluation.tally import Tally
from nofreelunch.types import Labels, Mask, PerExample

Some: TypeAlias = Int64[Tensor, " m"]
"""Indices of some of the examples; of other ones than `Labels` in the same signature."""

CLEAN = "clean"
CHECKS = "checks"
STANDING = -1
LOST = 0.05
"""An example is given up when the model is right about it no more often: others than randomised models know 0 and 1."""


class Board:
    """One row per example.

    Attributes:
        steps: names of the attacks in the order in which they ran; "clean", no attack, is the first.
        clean_right: how often the model is right about the example itself: 0 or 1 unless it is randomised.
        right: how often it is right about the worst point found.
        clean_margin: best wrong logit minus true logit of the example itself.
        margin: the largest margin of any point looked at.
        broken_by: the step after which the model was more often wrong than right; -1 if there is none.
        seen_broken: whether a check has found a point at which the model is wrong; counted after all attacks.
        dropped: points that an attack returned and that do not count: outside ball or box, or not finite.
    """

    def __init__(self, n: int) -> None:
        self.steps: list[str] = []
        self.clean_right = torch.zeros(n)
        self.right = torch.ones(n)
        self.clean_margin = torch.full((n,), -torch.inf)
        self.margin = torch.full((n,), -torch.inf)
        self.broken_by = torch.full((n,), STANDING, dtype=torch.int16)
        self.seen_broken = torch.zeros(n, dtype=torch.bool)
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.right)

    def standing(self) -> Labels:
        """The examples that are not lost, in order."""
        return (self.right > LOST).nonzero().squeeze(1)

    def enter(self, step: str) -> None:
        """From now on examples are broken by this step."""
        if step not in self.steps:
            self.steps.append(step)

    def record(self, step: str, index: Labels, right: PerExample, margin: PerExample, better: Mask) -> None:
        """The answers at points of the examples at `index`; those that are `better` than what was known count."""
        where = index[better]
        self.right[where] = right[better].to(self.right.dtype)
        self.margin[index] = torch.maximum(self.margin[index], margin.to(self.margin.dtype))
        newly = where[(self.right[where] < 0.5) & (self.broken_by[where] == STANDING)]
        self.broken_by[newly] = self.steps.index(step)

    def note(self, index: Labels, margin: PerExample) -> None:
        """A check has found points of these examples at which the model is wrong."""
        self.seen_broken[index] = True
        self.margin[index] = torch.maximum(self.margin[index], margin.to(self.margin.dtype))

    def count_noted(self) -> None:
        """What checks have broken and no attack has is broken by them."""
        index = (self.seen_broken & (self.broken_by == STANDING)).nonzero().squeeze(1)
        if len(index):
            self.enter(CHECKS)
            wrong = torch.zeros(len(index))
            self.record(CHECKS, index, wrong, self.margin[index], torch.ones_like(wrong, dtype=torch.bool))

    def clean(self) -> Tally:
        """How often the model is right."""
        return tally_of(self.clean_right)

    def robust(self) -> Tally:
        """How often it is right at the worst points found: an upper bound, as every attack's."""
        return tally_of(self.right)

    def after(self) -> dict[str, Tally]:
        """The examples that were not yet broken after each step."""
        counts = torch.bincount(self.broken_by[self.broken_by >= 0].long(), minlength=len(self.steps)).cumsum(0)
        return {step: Tally(len(self) - int(gone), len(self)) for step, gone in zip(self.steps, counts, strict=True)}

    def broken_in(self, step: str) -> int:
        """How many examples an attack was the first to break; 0 if it did not run."""
        return len(self.rows_broken_in(step))

    def rows_broken_in(self, step: str) -> list[int]:
        """Indices of the examples that this step was the first to break."""
        return (self.broken_by == self.steps.index(step)).nonzero().squeeze(1).tolist() if step in self.steps else []

    def arrays(self) -> dict[str, np.ndarray]:
        """All rows, to be kept."""
        return {name: value.numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}

    def restore(self, arrays: dict[str, np.ndarray], steps: list[str], dropped: int) -> None:
        """Go on from kept rows."""
        for name in self.arrays():
            getattr(self, name).copy_(torch.from_numpy(arrays[name]))
        self.steps, self.dropped = list(steps), dropped


def tally_of(right: PerExample) -> Tally:
    """How often the model is right, where it may be only partly so."""
    total = float(right.double().sum())
    return Tally(int(total) if total.is_integer() else total, len(right))
