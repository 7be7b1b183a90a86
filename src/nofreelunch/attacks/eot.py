"""Expectation over transformations: a randomised model, averaged, can be attacked (Athalye et al. 2018)."""

import torch
from torch import Tensor, nn

from nofreelunch.errors import check_count
from nofreelunch.types import Model


class Averaged(nn.Module):
    """The mean logits of several calls of a randomised model; its gradient is the mean of theirs.

    Args:
        model: draws its own random numbers at each call.
        samples: calls.
    """

    def __init__(self, model: Model, samples: int) -> None:
        super().__init__()
        self.model = model
        self.samples = check_count("samples", samples)

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits (n, k)."""
        return torch.stack([self.model(x) for _ in range(self.samples)]).mean(0)
