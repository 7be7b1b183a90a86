"""A network that takes pixels in [0, 1]: the only place where mean and standard deviation exist."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError
from nofreelunch.types import Inputs

Shape: TypeAlias = tuple[int, int, int]
"""(channels, height, width) of one image."""


@dataclass(frozen=True)
class Card:
    """What a model is and where it comes from; saved beside its weights.

    Args:
        arch: name in `ARCHITECTURES`, or "python:MODULE:FACTORY".
        shape: of one image.
        classes: number of logits.
        mean: per channel, of pixels in [0, 1]; subtracted.
        std: per channel; divided by.
        data: name of the training data.
        threat: what it was trained against, as text; "" for standard training.
        recipe: how it was trained, in JSON's types.
        seed: of its first weights and its training.
        metrics: what was measured after training, in JSON's types.
    """

    arch: str
    shape: Shape
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str = ""
    threat: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)


class Pixels(nn.Module):
    """Checks that images fit the model, and normalises them: (x - mean) / std, channel by channel.

    Args:
        shape: of one image; None stands for any size.
        mean: per channel.
        std: per channel.

    Raises:
        InputError: if the images have another shape than the model's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int | None, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Inputs) -> Inputs:
        """Normalised images."""
        if x.ndim != 4 or any(want not in (None, have) for want, have in zip(self.shape, x.shape[1:], strict=True)):
            sides = ", ".join("any" if side is None else str(side) for side in self.shape)
            got = str(tuple(x.shape)) if x.ndim != 4 else f"(n, {', '.join(map(str, x.shape[1:]))})"
            raise InputError(f"the model takes images of shape (n, {sides}), got {got}")
        return (x - self.mean) / self.std


class Classifier(nn.Sequential):
    """Pixels in [0, 1], (n, c, h, w), to logits, (n, k).

    Args:
        network: takes normalised images.
        card: what the model is.
    """

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__(OrderedDict(pixels=Pixels(card.shape, card.mean, card.std), network=network))
        self.card = card
