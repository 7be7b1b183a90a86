"""How a model answers, and how its answer moves, at a few points: enough to tell two models apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nofreelunch.types import Inputs, Model

_EXAMPLES = 2


@dataclass(frozen=True)
class Derivative:
    """Logits, and the gradient of one fixed combination of them with respect to the input; None where there is none."""

    logits: Tensor
    grad: Tensor | None

    def is_near(self, other: "Derivative", logits: float, grad: float) -> bool:
        """Whether both differ from `other`'s by at most these shares: of the largest logit, of the gradient's norm.

        A gradient may jump where rounding pushes a ReLU over its kink; a derivative lost in tracing changes far more.
        """
        if self.logits.shape != other.logits.shape or (self.grad is None) != (other.grad is None):
            return False
        near = (self.logits - other.logits).abs().max() <= logits * other.logits.abs().max()
        if self.grad is None or other.grad is None:
            return bool(near)
        return bool(near and (self.grad - other.grad).norm() <= grad * other.grad.norm())


def derivative(model: Model, x: Inputs) -> Derivative | None:
    """The derivative of a model at up to two points near the first inputs; None if it does not map floats to a tensor.

    The points are moved by a little noise, the same in each call: flat images make ties, which rounding breaks either
    way. The global random state is left as it was, so two randomised models draw the same numbers.
    """
    if not x.is_floating_point():
        return None
    noise = torch.rand(x[:_EXAMPLES].shape, generator=torch.Generator().manual_seed(0)).to(x)
    with (
        torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(x.device.type, enabled=False),
    ):
        point = (0.9 * x[:_EXAMPLES].detach() + 0.1 * noise).requires_grad_()
        logits = model(point.clone())
        if not isinstance(logits, Tensor):
            return None
        if not logits.requires_grad:
            return Derivative(logits, None)
        weights = torch.arange(logits.numel(), device=logits.device).cos().view_as(logits)
        (grad,) = torch.autograd.grad((weights * logits).sum(), point, allow_unused=True)
        return Derivative(logits.detach(), grad)
