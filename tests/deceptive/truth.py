"""The true robust accuracy of each deceptive model, under an l_inf threat, without `evaluate`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import nofreelunch as nfl
from deceptive.models import warped
from nofreelunch.attacks import ExactLinear, misclassified

Truth = Callable[[nn.Module, nn.Module, Tensor, Tensor, float], float]
"""(model, the network in it, x, y, eps) -> robust accuracy."""


def _worst(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return ExactLinear(nfl.Linf(eps))(net, x, y, torch.Generator().manual_seed(7))


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return 1 - misclassified(logits, y).double().mean().item()


def like_the_network(model: nn.Module, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """The model names the network's class: exact for a linear network."""
    return _accuracy(net(_worst(net, x, y, eps)), y)


def on_levels(levels: int) -> Truth:
    """The network sees each pixel rounded to one of some levels."""
    top = levels - 1
    return _by_pixels(lambda x, eps: tuple(((x + sign * eps).clamp(0, 1) * top).round() / top for sign in (-1, 1)))


def of_a_wave(x: Tensor, eps: float) -> tuple[Tensor, ...]:
    """The least and the largest value that a warped pixel takes within reach, up to a thousandth of the radius."""
    values = torch.stack([warped((x + share * eps).clamp(0, 1)) for share in torch.linspace(-1, 1, 1001)])
    return values.amin(0), values.amax(0)


def _by_pixels(ends: Callable[[Tensor, float], tuple[Tensor, ...]]) -> Truth:
    """The network sees a function of each pixel, which takes values between two ends: exact for a linear network.

    Against each wrong class every pixel goes to that end which raises the margin most.
    """

    def truth(model: nn.Module, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
        weight, bias = net[-1].weight, net[-1].bias
        low, high = (end.flatten(1) for end in ends(x, eps))
        slope = weight[None] - weight[y][:, None]
        best = torch.where(slope > 0, slope * high[:, None], slope * low[:, None]).sum(2) + bias - bias[y][:, None]
        return 1 - (best.scatter(1, y[:, None], -1.0).amax(1) > 0).double().mean().item()

    return truth


def among_pixels(model: nn.Module, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """8-bit images are treated as the network treats them, and others count as well: an upper bound."""
    return like_the_network(model, net, x, y, int(eps * 255) / 255)


def at_the_networks_worst(model: nn.Module, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """The model at the points that are worst for the network, in the mean over 100 answers: an upper bound."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        z = _worst(net, x, y, eps)
        return sum(_accuracy(model(z), y) for _ in range(100)) / 100


def within(radius: float) -> Truth:
    """The network answers up to this radius: an upper bound."""
    return lambda model, net, x, y, eps: like_the_network(model, net, x, y, radius)


def nothing(model: nn.Module, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """Any point off the grid gets NaN for an answer, which is a failure: no example is safe."""
    return 0.0


TRUTH: dict[str, Truth] = {
    "RoundedInput": on_levels(16),
    "NumpyInput": on_levels(16),
    "ThermometerInput": on_levels(16),
    "LookedUp": on_levels(256),
    "Purified": on_levels(16),
    "RoundedLogits": at_the_networks_worst,
    "BatchStatistics": at_the_networks_worst,
    "NoisyInput": at_the_networks_worst,
    "Dropout": at_the_networks_worst,
    "HashedNoise": at_the_networks_worst,
    "FlipsACoin": at_the_networks_worst,
    "OffTheGrid": among_pixels,
    "NanOffTheGrid": nothing,
    "KnowsTheRim": within(0.031),
    "KnowsCorners": within(0.045),
    "KnowsAShell": within(0.036),
    "SteepLead": at_the_networks_worst,
    "StepsUnderARipple": at_the_networks_worst,
    "WarpedPixels": _by_pixels(of_a_wave),
}
"""All others are judged by `like_the_network`."""
