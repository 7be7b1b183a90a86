"""The derivative of a loss by the inputs."""

from collections.abc import Callable

import torch
from torch import Tensor

from nofreelunch.types import Inputs, Model


def loss_gradient(loss: Callable[..., Tensor], model: Model, x: Inputs, *labels: Tensor) -> Inputs:
    """The gradient of each example's loss with respect to its input; as `value_and_gradient`."""
    return value_and_gradient(loss, model, x, *labels)[2]


def value_and_gradient(
    loss: Callable[..., Tensor], model: Model, x: Inputs, *labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, loss of each example, and the gradient of that loss with respect to the example's input.

    The losses are summed, not averaged: the gradient of an example does not depend on the batch, nor shrink with it. No
    parameter receives a gradient. Where the model has no path from input to loss the gradient is 0; NaN counts as 0 and
    infinities as the largest number, so that one bad coordinate does not stop an attack.

    Args:
        loss: `loss(logits, *labels)` gives one value per example.
        model: maps x to logits.
        x: inputs (n, *shape).
        labels: what the loss wants beside the logits.

    Returns:
        Logits (n, k) and losses (n,), both detached; gradient like x.
    """
    logits, values, grad = raw_gradient(loss, model, x, *labels)
    return logits, values, torch.zeros_like(x) if grad is None else grad.nan_to_num(nan=0.0)


def raw_gradient(
    loss: Callable[..., Tensor], model: Model, x: Inputs, *labels: Tensor
) -> tuple[Tensor, Tensor, Inputs | None]:
    """The same with the gradient as it is: NaN where it is NaN, and None where the model has no path to the loss."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        values = loss(logits if logits.dtype == torch.float64 else logits.float(), *labels)
        grad = torch.autograd.grad(values.sum(), x, allow_unused=True)[0] if values.requires_grad else None
    return logits.detach(), values.detach(), grad
