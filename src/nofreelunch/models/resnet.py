"""Residual networks whose units normalise and activate before they convolve (He et al. 2016, "Identity mappings")."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import no_type_check

from torch import nn

from nofreelunch.models.classifier import Shape
from nofreelunch.types import Images


class StandardiseEach(nn.Module):
    """Each image to mean 0 and standard deviation 1, over all its values together.

    (x - mean) / max(std, 1 / sqrt(count)), TensorFlow's `per_image_standardization`: a constant image becomes 0.
    """

    def forward(self, x: Images) -> Images:
        """Standardised images of the same shape."""
        centred = x - x.mean((1, 2, 3), keepdim=True)
        variance = centred.square().mean((1, 2, 3), keepdim=True)
        return centred * variance.clamp(min=1 / x[0].numel()).rsqrt()


class Unit(nn.Module):
    """x -> shortcut(x) + conv(act(bn(conv(act(bn(x)))))).

    Args:
        widths: channels of the input and of the output.
        stride: of the first convolution.
        slope: of the leaky ReLU on negative values; 0 is the ReLU.
        shortcut: maps the input's shape to the output's.
        from_activated: the shortcut starts at act(bn(x)) rather than at x.
    """

    def __init__(
        self, widths: tuple[int, int], stride: int, slope: float, shortcut: nn.Module, from_activated: bool
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.conv1 = nn.Conv2d(widths[0], widths[1], 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[1])
        self.conv2 = nn.Conv2d(widths[1], widths[1], 3, padding=1, bias=False)
        self.act = nn.LeakyReLU(slope)
        self.shortcut = shortcut
        self.from_activated = from_activated

    @no_type_check  # `fast` calls it with a symbol in the place of images
    def forward(self, x):
        """Images (n, widths[0], h, w) to (n, widths[1], h / stride, w / stride)."""
        active = self.act(self.bn1(x))
        residual = self.conv2(self.act(self.bn2(self.conv1(active))))
        return self.shortcut(active if self.from_activated else x) + residual


def cifar_resnet(shape: Shape, classes: int) -> nn.Module:
    """The paper's CIFAR-10 network: 3 stages of 5 units with 16, 32 and 64 filters, leaky ReLU 0.1.

    Tsipras et al. 2018, Appendix A, after the network released by Madry et al. 2018: images are standardised one by
    one, shortcuts have no weights, and the first unit's shortcut starts after its activation.
    """
    units = _units([16] * 6 + [32] * 5 + [64] * 5, 0.1, _pool_and_pad, lambda number, grows: number == 0)
    return nn.Sequential(StandardiseEach(), _network(shape[0], units, 0.1, classes))


def preact_resnet18(shape: Shape, classes: int) -> nn.Module:
    """4 stages of 2 units with 64 to 512 filters (He et al. 2016): the usual network of adversarial training.

    A shortcut that changes shape is a 1x1 convolution of the activated input.
    """
    units = _units([64] * 3 + [128] * 2 + [256] * 2 + [512] * 2, 0.0, _project, lambda number, grows: grows)
    return _network(shape[0], units, 0.0, classes)


def _units(
    widths: list[int],
    slope: float,
    shortcut: Callable[[int, int], nn.Module],
    from_activated: Callable[[int, bool], bool],
) -> list[Unit]:
    """One unit between each two widths; where they differ the image shrinks by half."""
    units = []
    for number, pair in enumerate(pairwise(widths)):
        grows = pair[0] != pair[1]
        way = shortcut(*pair) if grows else nn.Identity()
        units.append(Unit(pair, 2 if grows else 1, slope, way, from_activated(number, grows)))
    return units


def _pool_and_pad(width_in: int, width_out: int) -> nn.Module:
    """A shortcut without weights: average pooling, then zeros on both sides of the channels."""
    before = (width_out - width_in) // 2
    return nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True), nn.ZeroPad3d((0, 0, 0, 0, before, width_out - width_in - before))
    )


def _project(width_in: int, width_out: int) -> nn.Module:
    return nn.Conv2d(width_in, width_out, 1, stride=2, bias=False)


def _network(channels: int, units: list[Unit], slope: float, classes: int) -> nn.Module:
    """Stem, units, batch-norm, activation, mean over places, linear layer."""
    first, last = units[0].conv1.in_channels, units[-1].conv2.out_channels
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(channels, first, 3, padding=1, bias=False),
            units=nn.Sequential(*units),
            bn=nn.BatchNorm2d(last),
            act=nn.LeakyReLU(slope),
            mean=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(last, classes),
        )
    )
