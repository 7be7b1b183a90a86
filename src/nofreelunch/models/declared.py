"""What a user says about a model that others made: the pixels it takes, and which of its outputs are which classes.

It becomes part of the model, so that attacks stay in [0, 1] and `eps` means the same as for every other one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError, check_count, check_number


class Normalisation(NamedTuple):
    """Per channel, or one number for all: (x - mean) / std of pixels x in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Declared:
    """What is not written in the model itself.

    Args:
        mean: per channel, or one number for all, such as (0.5,), in the unit of `pixel_range`; goes with `std`. None
            for what the model comes with, or, with a range other than (0, 1), for 0.
        std: likewise; or 1.
        pixel_range: that the model takes pixels in, such as (0, 255).
        labels: for each class of the data the index of the model's output; None if they are in the same order.

    Raises:
        InputError: if they are not what they should be.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pixel_range: tuple[float, float] = (0.0, 1.0)
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        low, high = (check_number("range", end, -float("inf"), float("inf")) for end in self.pixel_range)
        if not low < high:
            raise InputError(f"range must go up, such as 0..255, got {low:g}..{high:g}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values or (), (tuple, list)):
                raise InputError(f"{name} must be a number per channel, such as (0.5,) for all, got {values!r}")
            for value in values or ():
                check_number(name, value, -float("inf") if name == "mean" else 0, float("inf"), open_low=True)
        outside = [value for value in self.mean or () if not low <= value <= high]
        if outside:
            found = f"mean {outside[0]:g} lies outside of the pixels' range {low:g}..{high:g}"
            raise InputError(f"{found}; if the model takes pixels in another one, give it too: --range 0..255")
        if (self.mean is None) != (self.std is None):
            raise InputError(f"mean and std go together, got mean {self.mean} and std {self.std}")
        lengths = {len(values) for values in (self.mean, self.std) if values is not None}
        if len(lengths) > 1 or lengths & {0}:
            raise InputError(f"mean and std need one number per channel each, got {self.mean} and {self.std}")
        labels = () if self.labels is None else tuple(check_count("an index of labels", k, 0) for k in self.labels)
        if self.labels is not None and len(set(labels)) < max(2, len(labels)):
            raise InputError(f"labels must be two or more different output indices from 0, got {self.labels}")

    @property
    def normalises(self) -> bool:
        """Whether anything is said about pixels."""
        return self != Declared(labels=self.labels)

    def normalisation(self) -> Normalisation:
        """Of pixels in [0, 1]: range, mean and std in one."""
        low, high = self.pixel_range
        channels = len(self.mean or self.std or (0.0,))
        mean, std = self.mean or (0.0,) * channels, self.std or (1.0,) * channels
        return Normalisation(tuple((m - low) / (high - low) for m in mean), tuple(s / (high - low) for s in std))


class Outputs(nn.Module):
    """Some of a model's logits, in another order.

    Raises:
        InputError: if the model has no such output.
    """

    index: Tensor

    def __init__(self, labels: tuple[int, ...]) -> None:
        super().__init__()
        self.highest = max(labels)
        self.register_buffer("index", torch.tensor(labels))

    def forward(self, logits: Tensor) -> Tensor:
        """One logit for each class of the data."""
        if isinstance(logits, Tensor) and self.highest >= logits.shape[-1]:
            raise InputError(f"labels name output {self.highest}, but the model has {logits.shape[-1]} outputs")
        return logits.index_select(-1, self.index)
