"""Shapes and callables that the whole package speaks of.

Shapes cost nothing at run time; the tests check every one of them (jaxtyping + beartype).
"""

from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

Inputs: TypeAlias = Float[Tensor, "n *shape"]  # noqa: F821 - axes, no names
"""Any batch of float inputs; images are pixels in [0, 1]."""
Images: TypeAlias = Float[Tensor, "n c h w"]
RawImages: TypeAlias = UInt8[Tensor, "n c h w"]
Labels: TypeAlias = Int64[Tensor, " n"]
Logits: TypeAlias = Float[Tensor, "n k"]
PerExample: TypeAlias = Float[Tensor, " n"]
Mask: TypeAlias = Bool[Tensor, " n"]


@runtime_checkable
class Model(Protocol):
    """Anything that maps a batch of inputs to logits, one row per example."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Logits of shape (n, k), k >= 2."""
        ...


@runtime_checkable
class Loss(Protocol):
    """One value per example, larger is worse for the model."""

    def __call__(self, logits: Tensor, y: Tensor, /) -> Tensor:
        """Losses of shape (n,) from logits (n, k) and labels (n,)."""
        ...


def pixels(raw: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]."""
    return raw.to(torch.float32).div_(255)
