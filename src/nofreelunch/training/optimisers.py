"""The optimisers, by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

_Groups = list[dict[str, Any]]


OPTIMISERS: dict[str, Callable[[_Groups], torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=0.0, fused=True),  # Kingma and Ba 2015; its decay is added to the gradient
    "adamw": partial(torch.optim.AdamW, lr=0.0, fused=True),  # Loshchilov and Hutter 2019: decay apart from it
    "nesterov": partial(torch.optim.SGD, lr=0.0, momentum=0.9, nesterov=True, fused=True),  # the paper's for ImageNet
    "sgd": partial(torch.optim.SGD, lr=0.0, momentum=0.9, fused=True),  # the paper's for CIFAR-10
}


def optimiser(name: str, model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of this name; its learning rate, 0 here, is set before each step.

    Weight decay is for matrices and filters; biases and the scales and shifts of batch-norm are left alone.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return OPTIMISERS[name]([group for group in groups if group["params"]])


def optimiser_bytes(name: str, model: nn.Module) -> int:
    """Bytes that the optimiser of this name keeps of a model from its first step on; found by a step on two numbers."""
    probe = nn.Parameter(torch.zeros(2))
    probe.grad = torch.zeros(2)
    small = OPTIMISERS[name]([{"params": [probe]}])
    small.step()
    kept = small.state[probe].values()
    copies = sum(value.shape == probe.shape for value in kept)
    apart = sum(value.nbytes for value in kept if value.shape != probe.shape)
    return sum(copies * weight.nbytes + apart for weight in model.parameters())
