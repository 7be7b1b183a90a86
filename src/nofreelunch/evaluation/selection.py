"""Some of the examples, evenly spread over all: the same number is always the same ones."""

import torch
from torch import Tensor

from nofreelunch.data import Split


def spread(n: int, there: int) -> Tensor:
    """The places of n of so many examples; of all, where there are fewer."""
    n = min(n, there)
    return torch.arange(n) * there // n


def selected(split: Split, index: Tensor) -> Split:
    """The examples at these places; a mapped split stays on disk if they are all."""
    return split if len(index) == len(split) else Split(split.x[index], split.y[index], split.labels)
