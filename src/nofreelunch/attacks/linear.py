"""The exact adversary of an affine model, with or without the pixel box."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from nofreelunch.attacks.base import Search
from nofreelunch.errors import InputError
from nofreelunch.rng import Streams
from nofreelunch.threats import Box, expand
from nofreelunch.types import Inputs, Labels, Model

_FAR = 1e30
"""So far along a direction that the projection of the point reached is the direction's furthest point of the set."""


@final
@dataclass(frozen=True)
class ExactLinear(Search):
    """For logits = W x + b, the point of the set with the largest margin, in closed form.

    Towards a wrong class j the margin rises along w = W_j - W_y, and its maximum over ball and box is the projection
    of x + t w for t to infinity: for l_inf the corner x + eps sign(w), clamped; for l_2 the point x + min(t |w|,
    room) sign(w) of length eps. The largest of these k - 1 maxima is the answer.

    Raises:
        InputError: when called, if the model is seen not to be affine. It is asked at x and at points between and
            around them only; a kink elsewhere in the ball goes unnoticed, and then the answer need not be the worst.
    """

    random_start: ClassVar[bool] = False

    def search(self, model: Model, x: Inputs, y: Labels, streams: Streams) -> Inputs:
        """The worst point for every example."""
        weight, bias = affine_map(model, x, self.threat.box)
        exact = x.double()
        best, best_margin = exact, torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        for wrong in range(len(bias)):
            slope = (weight[wrong] - weight[y]).reshape(x.shape)
            peak = slope.abs().flatten(1).amax(1).clamp(min=torch.finfo(torch.float64).tiny)
            z = self.threat.project(exact + _FAR * slope / expand(peak, slope), exact)
            margins = ((z * slope).flatten(1).sum(1) + bias[wrong] - bias[y]).masked_fill(y == wrong, -torch.inf)
            better = margins > best_margin
            best = torch.where(expand(better, z), z, best)
            best_margin = torch.where(better, margins, best_margin)
        return self.threat.project(best.to(x.dtype), x)


def affine_map(model: Model, x: Inputs, box: Box) -> tuple[Tensor, Tensor]:
    """W (k, d) and b (k,) with model(x) = W x + b, in float64; the derivative is taken in the middle of box or inputs.

    Raises:
        InputError: if the model is not affine on x and on points between and around them.
    """
    middle = x.mean(0, keepdim=True) if box is None else torch.full_like(x[:1], sum(box) / 2)
    middle.requires_grad_()
    logits = model(middle)[0]
    rows = [
        torch.autograd.grad(logit, middle, retain_graph=True, allow_unused=True)[0] if logit.requires_grad else None
        for logit in logits
    ]
    weight = torch.stack([(torch.zeros_like(middle) if row is None else row).flatten() for row in rows]).double()
    with torch.no_grad():
        bias = logits.double() - weight @ middle.flatten().double()
        points = torch.cat([x, 2 * middle - x, (x + x.flip(0)) / 2])
        said, expected = model(points).double(), points.flatten(1).double() @ weight.T + bias
    scale = points.flatten(1).abs().double() @ weight.abs().T + bias.abs()
    if not ((said - expected).abs() <= 1e-4 * scale + torch.finfo(torch.float32).tiny).all():
        raise InputError("ExactLinear needs logits = W x + b, but this model's are not affine in its inputs")
    return weight, bias
