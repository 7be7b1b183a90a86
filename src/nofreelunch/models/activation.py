"""Leaky ReLUs, alone or after a batch-norm, and sums, that touch memory as seldom as they can: much time goes there.

Forward they overwrite what they are given. Backward they overwrite the gradient, where the layer that made it keeps no
other use for it, and multiply by the batch-norm's scale instead of differentiating it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Norm(NamedTuple):
    """A batch-norm in evaluation mode: (x - mean) / sqrt(var + eps) * weight + bias, per channel."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @property
    def scale(self) -> Tensor:
        """What x is multiplied by, (c,)."""
        scale = torch.rsqrt(self.var + self.eps)
        return scale if self.weight is None else scale * self.weight


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, owned: bool, norm: Norm | None) -> Tensor:
        if norm is None:
            ctx.mark_dirty(x)
        else:
            x = F.batch_norm(x, norm.mean, norm.var, norm.weight, norm.bias, eps=norm.eps)
        x = F.leaky_relu_(x, slope) if slope else torch.relu_(x)
        ctx.save_for_backward(x)
        ctx.slope, ctx.owned, ctx.norm = slope, owned, norm
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (active,) = ctx.saved_tensors
        overwrite = ctx.owned and not torch.is_grad_enabled()  # enabled where the gradient is to be differentiated
        result = {"grad_input": grad} if overwrite else {}
        if ctx.slope:
            grad = torch.ops.aten.leaky_relu_backward(grad, active, ctx.slope, True, **result)
        else:
            grad = torch.ops.aten.threshold_backward(grad, active, 0, **result)
        if ctx.norm is not None:
            scale = ctx.norm.scale.to(grad.dtype).view(-1, *[1] * (grad.ndim - 2))
            grad = grad * scale if torch.is_grad_enabled() else grad.mul_(scale)
        return grad, None, None, None


def activate(x: Tensor, slope: float, owned: bool) -> Tensor:
    """`leaky_relu(x, slope)`, in place.

    Args:
        x: nobody else reads it, nor does the derivative of what made it.
        slope: below zero; at least 0.
        owned: whether only this function will see the gradient that it is given.
    """
    active: Tensor = _Activation.apply(x, slope, owned, None)
    return active


def normalise_and_activate(x: Tensor, norm: tuple[Any, ...], slope: float, owned: bool) -> Tensor:
    """`leaky_relu(norm(x), slope)`; x stays, its `Norm` is frozen, the rest is as in `activate`."""
    active: Tensor = _Activation.apply(x, slope, owned, Norm(*norm))
    return active


def add_into(x: Tensor, other: Tensor) -> Tensor:
    """`x + other`, in place where the sum has x's shape and type; nobody else reads x."""
    return x.add_(other) if x.shape == other.shape and x.dtype == other.dtype else x + other
