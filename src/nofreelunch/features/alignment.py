"""How far a gradient is about its image: numbers for what Figures 5 and 8 let the eye judge."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nofreelunch.errors import InputError
from nofreelunch.types import Images, PerExample

EDGE_SHARE = 0.2
"""The share of an image's pixels that counts as edges: those of the largest Sobel magnitude."""


@dataclass(frozen=True)
class Alignment:
    """Measures of gradients against their images; none depends on the length or the sign of the gradient.

    Attributes:
        alignment: |<x, g>| / |g|_2, in the unit of the inputs (Etmann et al. 2019, Definition 2).
        edge_cosine: cosine of |g| (over channels) and the image's Sobel magnitude, in [0, 1].
        edge_energy: share of |g|_2^2 that lies on the `EDGE_SHARE` of pixels with the largest Sobel magnitude; a
            gradient that knows nothing of the image has `EDGE_SHARE` on average.
        sparsity: Hoyer's measure, in [0, 1]: 0 where all |g_i| are equal, 1 where one is not zero; about 0.2 for noise.
        coherence: correlation of neighbouring pixels of g, from about -1 to about 1 (a little beyond where g is 0 at
            the border); white noise has 0 on average.
    """

    alignment: PerExample
    edge_cosine: PerExample
    edge_energy: PerExample
    sparsity: PerExample
    coherence: PerExample


def gradient_alignment(x: Images, grad: Tensor) -> Alignment:
    """How each gradient lies against its image.

    Raises:
        InputError: if shapes differ, or a gradient is 0 or not finite: it has no direction.
    """
    if x.shape != grad.shape:
        raise InputError(f"x and grad must have one shape, got {tuple(x.shape)} and {tuple(grad.shape)}")
    peak = grad.abs().amax((1, 2, 3))
    bad = ~((peak > 0) & peak.isfinite())
    if bad.any():
        raise InputError(
            f"the gradient of example {int(bad.int().argmax())} is zero or not finite; it has no direction"
        )
    x, grad = x.double(), grad.double() / peak.double().view(-1, 1, 1, 1)
    flat = grad.flatten(1)
    magnitude, edges = grad.norm(dim=1).flatten(1), edge_map(x).flatten(1)
    return Alignment(
        alignment=(x.flatten(1) * flat).sum(1).abs() / flat.norm(dim=1),
        edge_cosine=F.cosine_similarity(magnitude, edges, dim=1),
        edge_energy=_energy_at_largest(magnitude.square(), edges),
        sparsity=hoyer_sparsity(flat),
        coherence=_coherence(grad),
    )


def edge_map(x: Images) -> Float[Tensor, "n h w"]:
    """Sobel magnitude of the mean over channels; the border is continued outwards."""
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slope = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=x.dtype, device=x.device)
    magnitude: Tensor = F.conv2d(grey, torch.stack([slope, slope.T])[:, None]).norm(dim=1)
    return magnitude


def hoyer_sparsity(values: Float[Tensor, "n d"]) -> PerExample:
    """(sqrt(d) - |v|_1 / |v|_2) / (sqrt(d) - 1); Hoyer 2004, "Non-negative matrix factorization with sparseness"."""
    root = math.sqrt(values.shape[1])
    if root == 1:  # a single number is as spread as can be
        return torch.zeros_like(values[:, 0])
    spread: Tensor = values.abs().sum(1) / values.norm(dim=1)  # from 1 to sqrt(d)
    return (root - spread) / (root - 1)


def _energy_at_largest(energy: Float[Tensor, "n d"], edges: Float[Tensor, "n d"]) -> PerExample:
    """The share of the energy on the `EDGE_SHARE` of places where `edges` is largest."""
    places = edges.topk(max(1, round(EDGE_SHARE * edges.shape[1])), dim=1).indices
    return energy.gather(1, places).sum(1) / energy.sum(1)


def _coherence(grad: Images) -> PerExample:
    """Mean product of neighbours, right and below, over the mean square; each channel's mean is taken out first."""
    grad = grad - grad.mean((2, 3), keepdim=True)
    pairs = (grad[..., :-1] * grad[..., 1:], grad[..., :-1, :] * grad[..., 1:, :])
    products = [pair.mean((1, 2, 3)) for pair in pairs if pair.numel()]  # an image of one row has none below
    square = grad.square().mean((1, 2, 3)).clamp(min=torch.finfo(grad.dtype).tiny)
    return torch.stack(products or [torch.zeros_like(square)]).mean(0) / square
