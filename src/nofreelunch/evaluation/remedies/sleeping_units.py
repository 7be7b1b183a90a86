"""Units that sleep on all images, woken one by one.

A network that carries a back door has such units (Gu et al. 2017, "BadNets"): off on every image, and on for a pattern
that images do not have. No gradient of the scores tells of them; the slope of what goes into them does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.choices import dim_of_choice, sign_of_choice
from nofreelunch.evaluation.remedies.moved_units import Unit
from nofreelunch.evaluation.remedies.straight import straight
from nofreelunch.evaluation.subject import Subject
from nofreelunch.models.tracing import operation_name
from nofreelunch.rng import Streams
from nofreelunch.types import Inputs

ACTIVATIONS = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "gelu", "silu", "elu", "elu_", "selu", "celu",
    "softplus", "hardswish", "mish",
}  # fmt: skip
"""They do little with what is below 0."""
_SHARES = ("softmax", "_softmax")
"""They choose softly; of what goes into a choice, (n, choices), one sleeps that is never made."""
_UNITS = 32
"""So many are woken, at most."""


class _Layer(NamedTuple):
    """What goes into an activation or a choice, which dimension the units are, and the most that each gets anywhere."""

    given: Tensor
    dim: int
    heights: Tensor


class Reading(Smooth):
    """Writes down what goes into activations and choices; the derivative of an activation is 1, awake or not.

    Args:
        rows: how many examples there are.
        classes: a choice among so many is taken for the answer.
    """

    def __init__(self, rows: int, classes: int) -> None:
        super().__init__()
        self.rows, self.classes = rows, classes
        self.layers: list[_Layer] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        name, given, kwargs = operation_name(function), args[0] if args else None, kwargs or {}
        if not isinstance(given, Tensor) or given.dim() < 2 or len(given) != self.rows or not given.requires_grad:
            return super().__torch_function__(function, types, args, kwargs)
        if name in ACTIVATIONS:
            before = given * 1  # the operation may work in place
            for dim in sorted({1, given.dim() - 1}):  # channels of convolutions come first, those of linear layers last
                self.layers.append(_Layer(before, dim, by_unit(before, dim).amax(2)))
            return straight(function(*args, **kwargs), before)
        sign = 1 if name in _SHARES else sign_of_choice(function, args, kwargs)
        among = given.dim() == 2 and given.shape[1] not in (1, self.classes)
        if sign and among and dim_of_choice(function, args, kwargs) in (-1, 1):
            height = sign * given
            first, second = height.topk(2).values.T[..., None]
            self.layers.append(_Layer(given, 1, height - torch.where(height == first, second, first)))
        return super().__torch_function__(function, types, args, kwargs)


def by_unit(values: Tensor, dim: int) -> Tensor:
    """All values of each unit of each example, (n, units, places)."""
    return values.movedim(dim, 1).unsqueeze(-1).flatten(2)


def _read(subject: Subject, x: Inputs) -> tuple[Tensor, list[_Layer]]:
    """The model's logits at points that have gradients, and its layers."""
    mode = Reading(len(x), subject.classes)
    with torch.enable_grad(), bpda(mode):
        logits = subject.differentiable(x)
    return logits, mode.layers


def activations(subject: Subject, x: Inputs) -> list[Tensor]:
    """What goes into each activation and each choice, (n, units)."""
    return [layer.heights for layer in _read(subject, x)[1]]


@dataclass(frozen=True)
class Awake:
    """BPDA, and each activation with the derivative 1: leads to where many units wake together."""

    subject: Subject

    def __call__(self, x: Tensor) -> Tensor:
        """Its logits."""
        return _read(self.subject, x)[0]


def sleeping(subject: Subject, pool: Inputs, rows: int) -> tuple[Unit, ...]:
    """The units that are off on all images, those first that could change the scores most if they were not.

    Args:
        subject: the model.
        pool: the images.
        rows: of a batch, at most.
    """
    found = dict[tuple[int, int], tuple[Tensor, Tensor]]()
    for part in torch.split(pool, rows):
        for layer, (highest, effect) in _looked_at(subject, part).items():
            before = found.get(layer, (highest, torch.zeros_like(effect)))
            found[layer] = torch.maximum(before[0], highest), before[1] + effect
    units = [
        (float(effect[unit]), (layer, unit))
        for (layer, _), (highest, effect) in found.items()
        for unit in ((highest < 0) & (effect > 0)).nonzero().flatten().tolist()
    ]
    return tuple(unit for _, unit in sorted(units, reverse=True)[:_UNITS])


def _looked_at(subject: Subject, x: Inputs) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """For each layer and its width the most that its units get on any image, and what they could do; (units,) each."""
    logits, layers = _read(subject, x.detach().requires_grad_())
    if not layers or not logits.requires_grad:
        return {}
    weights = Streams.numbered(0, 1, logits.device).normal(logits.shape[1], dtype=logits.dtype)
    weights = weights - weights.mean()  # what raises all classes alike changes nothing
    slopes = torch.autograd.grad((logits * weights).sum(), [layer.given for layer in layers], allow_unused=True)
    seen = {}
    for number, (layer, slope) in enumerate(zip(layers, slopes, strict=True)):
        heights = layer.heights.detach()
        force = torch.zeros_like(heights) if slope is None else by_unit(slope, layer.dim).abs().sum(2)
        seen[number, heights.shape[1]] = heights.amax(0), (force * heights.abs()).sum(0)
    return seen
