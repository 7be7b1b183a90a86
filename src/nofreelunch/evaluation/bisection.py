"""Where an answer changes between two points, found by halving."""

from collections.abc import Callable

import torch

from nofreelunch.types import Mask, PerExample


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
