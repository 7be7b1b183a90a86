"""Functions to differentiate in the model's place: by BPDA, smoothed, by finite differences, in float64, rescaled."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from nofreelunch.attacks.gradient import loss_gradient
from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.unseen import replaced
from nofreelunch.evaluation.subject import Subject, as_in_use
from nofreelunch.models.copying import copy_of
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Model

_PIXELS = 200_000
"""So many are in one call where a model is asked about many points near each example: a batch of an evaluation's."""


@dataclass(frozen=True)
class BPDA:
    """The model with every operation made differentiable: backward pass differentiable approximation, BPDA.

    Args:
        subject: the model.
        soft: whether choices among its parts become mixtures in value too: then it is another model, to transfer from.
    """

    subject: Subject
    soft: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Its logits."""
        with bpda(Smooth(self.soft)):
            return self.subject.differentiable(x)


@dataclass(frozen=True)
class WithoutInnerSteps:
    """The model as it would be if the optimisation inside of it took no step: what it differentiates has slope 0.

    A defence that moves its input by the network's own gradient leaves the network (Croce et al. 2022, adaptive
    test-time defences).
    """

    subject: Subject

    def __call__(self, x: Tensor) -> Tensor:
        """Its logits."""
        with replaced(torch.autograd, "grad", _level), bpda():
            return self.subject.differentiable(x)


def _level(outputs: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(one) for one in ((inputs,) if isinstance(inputs, Tensor) else inputs))


@dataclass(frozen=True)
class Rescaled:
    """A model with its logits divided by a number: the same answers, at a scale where losses are not flat."""

    model: Model
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """The logits, scaled."""
        return self.model(x) / self.scale


@dataclass(frozen=True)
class OnlyClasses:
    """A model with the logits of other classes put out of reach: those that no example has may be there to distract.

    Args:
        model: any.
        classes: indices of those that stay.
    """

    model: Model
    classes: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The logits."""
        logits = self.model(x)
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device).index_fill(0, self.classes, False)
        return logits.masked_fill(others, -torch.inf)


@dataclass(frozen=True)
class Smoothed:
    """The mean over fixed random points nearby, within half the radius: smooths what oscillates.

    Where one call cannot take them all they are asked in parts, each once more for its gradient: no more is held than
    for one part.
    """

    model: Model
    threat: Threat
    count: int

    def __call__(self, x: Tensor) -> Tensor:
        """The mean logits."""
        near = replace(self.threat, eps=self.threat.eps / 2)
        streams = Streams.numbered(0, self.count, x.device)
        shifts = near.draw(x[:1].expand(self.count, *x.shape[1:]), streams)
        parts = torch.split(shifts, max(1, _PIXELS // x.numel()))
        ask = self.model if len(parts) == 1 else partial(checkpoint, self.model, use_reentrant=False)
        with set_checkpoint_early_stop(False):  # which is an exception, and TorchScript makes an error of it
            answers = [ask((x + part[:, None]).flatten(0, 1)).view(len(part), len(x), -1) for part in parts]
        return torch.cat(answers).mean(0)


def in_float64(subject: Subject) -> Model:
    """The model in float64, where differences that float32 rounds away are still there.

    Raises:
        AttributeError: if it is not an `nn.Module`.
        TypeError: if it cannot be copied.
    """
    exact = copy_of(subject.working)
    if exact is subject.working:
        raise TypeError("it cannot be copied")
    exact = exact.double()

    def surrogate(x: Tensor) -> Tensor:
        with as_in_use(x.device, exact):
            logits: Tensor = exact(x.double())
        return logits

    return surrogate


class _CentralDifferences(torch.autograd.Function):
    """The model's answer, with differences in place of its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Model, own: Model, shifts: Tensor) -> Tensor:
        """The logits."""
        ctx.save_for_backward(x, shifts)
        ctx.model, ctx.own = model, own
        return model(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The shortest vector beside a multiple of the own gradient that explains the differences over all shifts."""
        x, shifts = ctx.saved_tensors
        risen = []
        for part in torch.split(shifts, max(1, _PIXELS // x.numel())):
            points = (x + torch.cat([part, -part])[:, None]).flatten(0, 1)
            up, down = ctx.model(points).view(2, len(part), len(x), -1)
            risen.append(((up - down) * grads[0]).sum(2).nan_to_num(nan=0.0) / 2)
        own = loss_gradient(lambda logits: (logits * grads[0]).sum(1), ctx.own, x).flatten(1).double()
        rows = shifts.flatten(1).double()
        measured, said = torch.cat(risen).double(), rows @ own.T
        share = (measured * said).sum(0) / (said * said).sum(0).clamp(min=1e-30)
        rest = torch.linalg.solve(rows @ rows.T, measured - share * said)
        total = share[:, None] * own + rest.T @ rows
        return total.view_as(x).to(x.dtype), None, None, None


@dataclass(frozen=True)
class FiniteDifferences:
    """The model with its derivative estimated by central differences (Chen et al. 2017; Uesato et al. 2018).

    Coordinate by coordinate where there are few, else in random directions. What the differences leave open is filled
    in with the model's own gradient, as far as they bear it out: it may be true in part.

    Args:
        model: is only asked for answers.
        own: is differentiated.
        threat: the differences are as wide as its radius.
        directions: so many coordinates are few, and so many random directions are taken.
    """

    model: Model
    own: Model
    threat: Threat
    directions: int

    def __call__(self, x: Tensor) -> Tensor:
        """Its logits."""
        size = x[0].numel()
        if size <= self.directions:
            shifts = torch.eye(size, dtype=x.dtype, device=x.device).view(size, *x.shape[1:])
        else:
            streams = Streams.numbered(1, self.directions, x.device)
            shifts = streams.normal(*x.shape[1:], dtype=x.dtype).sign()
        width = self.threat.eps / 2 / self.threat.size(shifts[:1]).item()
        logits: Tensor = _CentralDifferences.apply(x, self.model, self.own, shifts * width)
        return logits
