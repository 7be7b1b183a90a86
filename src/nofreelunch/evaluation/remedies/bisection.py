"""Where an answer, or a value, changes between two points, found by halving."""

from collections.abc import Callable

import torch
from torch import Tensor

from nofreelunch.threats import expand
from nofreelunch.types import Inputs, Mask, PerExample


def bisected(
    beyond: Callable[[PerExample], Mask], low: PerExample, high: PerExample, halvings: int
) -> tuple[PerExample, PerExample]:
    """Two places for each example, next to each other, of which the second lies beyond the change.

    Args:
        beyond: which examples have changed at their place; it holds at `high`, and need not at `low`.
        low: places, (n,).
        high: places, (n,).
        halvings: of the way between them.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        there = beyond(middle)
        low, high = torch.where(there, low, middle), torch.where(there, middle, high)
    return low, high


def between(x: Inputs, end: Inputs, share: PerExample) -> Inputs:
    """A share of the way from x to another point."""
    return x + expand(share, x).to(x.dtype) * (end - x)


def largest_change(
    values: Callable[[PerExample], Tensor], marks: Tensor, rows: int, halvings: int
) -> tuple[Tensor, Tensor, PerExample]:
    """Where some values change most on the way from place 0 to place 1.

    Args:
        values: of each example at its place, (n, k); the change is that of the one of the k that changes most.
        marks: places, rising, at which the values of all examples are asked for first.
        rows: n.
        halvings: of the way between the two marks with the largest change.

    Returns:
        The values at the marks, (m, n, k); the change at that place, (n, k); and the place just behind it, (n,).
    """
    seen = torch.stack([values(mark.expand(rows)) for mark in marks])
    first, each = seen.diff(dim=0).abs().nan_to_num().amax(2).argmax(0), torch.arange(rows, device=marks.device)
    low, high = marks[first], marks[first + 1]
    before, after = seen[first, each], seen[first + 1, each]
    for _ in range(halvings):
        middle = (low + high) / 2
        at = values(middle)
        later = (after - at).abs().amax(1) > (at - before).abs().amax(1)
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        before, after = torch.where(later[:, None], at, before), torch.where(later[:, None], after, at)
    return seen, after - before, high
