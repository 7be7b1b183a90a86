"""Architectures by name, and untrained models made from them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError, check_count, check_known
from nofreelunch.models.classifier import Card, Classifier, Shape
from nofreelunch.models.cnn import linear, mnist_cnn, mnist_cnn_small
from nofreelunch.models.resnet import cifar_resnet, preact_resnet18
from nofreelunch.models.sources import from_python
from nofreelunch.names import OWN_CODE, is_own_code
from nofreelunch.rng import seeded


def resnet50(shape: Shape, classes: int) -> nn.Module:
    """torchvision's ResNet-50 (He et al. 2015), the paper's network for Restricted ImageNet; 3 channels."""
    from torchvision.models import resnet50 as network  # seconds of import that no other architecture needs

    if shape[0] != 3:
        raise InputError(f"resnet50 takes images of 3 channels, got {shape[0]}")
    made: nn.Module = network(num_classes=classes)
    return made


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Args:
        network: makes one, with random weights, for images of a shape and a number of classes.
        smallest: height and width that images must have at least.
        standardises: it normalises images by itself, and gets them as they are.
    """

    network: Callable[[Shape, int], nn.Module]
    smallest: int = 1
    standardises: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "linear": Architecture(linear),
    "mnist-cnn": Architecture(mnist_cnn, smallest=4),
    "mnist-cnn-small": Architecture(mnist_cnn_small, smallest=4),
    "cifar-resnet": Architecture(cifar_resnet, smallest=4, standardises=True),
    "preact-resnet18": Architecture(preact_resnet18),
    "resnet50": Architecture(resnet50),
}


@runtime_checkable
class Data(Protocol):
    """What a model must know of its data; a `Dataset` knows it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the pixels in [0, 1], per channel."""

    @property
    def std(self) -> tuple[float, ...]:
        """Their standard deviation."""

    @property
    def train(self) -> Any:
        """A split; `train.x` are its images (n, c, h, w)."""


def build(arch: str, data: Data, seed: int = 0) -> Classifier:
    """An untrained model for a data set; its weights are a function of the seed.

    Raises:
        InputError: if there is no such architecture, or it cannot take such images.
    """
    if not isinstance(data, Data):
        raise InputError(f'data must be a Dataset, such as load_data("mnist"), got {type(data).__name__}')
    channels, height, width = data.train.x.shape[1:]
    mean, std = tuple(data.mean), tuple(data.std)
    if architecture(arch).standardises:
        mean, std = (0.0,) * channels, (1.0,) * channels
    return assemble(Card(arch, (channels, height, width), len(data.classes), mean, std, seed=seed))


def own_network(arch: str) -> nn.Module:
    """What the user's function returns.

    Raises:
        InputError: if it fails, or returns no network.
    """
    return from_python(arch.removeprefix(OWN_CODE), None).network


def architecture(arch: str) -> Architecture:
    """The architecture of that name, or the one that the user's code makes.

    Raises:
        InputError: if there is no such architecture.
    """
    if is_own_code(arch):
        return Architecture(lambda shape, classes: _own(arch, shape, classes), standardises=True)
    check_known("architecture", arch, [*ARCHITECTURES, f"{OWN_CODE}MODULE:FACTORY"])
    return ARCHITECTURES[arch]


def _own(arch: str, shape: Shape, classes: int) -> nn.Module:
    """The user's network, if it answers images of this shape with as many logits as there are classes."""
    network = own_network(arch)
    try:
        with torch.no_grad():
            logits = copy.deepcopy(network).eval()(torch.zeros(2, *shape))
    except (Exception, SystemExit) as error:  # the user's code may raise anything; it is the input here
        raise InputError(f"{arch} does not take images of {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{arch} must answer 2 images of {shape} with logits of shape (2, {classes}), got {found}")
    return network


def assemble(card: Card) -> Classifier:
    """The untrained model that a card describes; the user's code is run where it names it. The global random state is
    left alone.

    Raises:
        InputError: if there is no such architecture, or it cannot take such images.
    """
    kind = architecture(card.arch)
    check_count("classes", card.classes, 2)
    if min(card.shape[1:]) < kind.smallest:
        raise InputError(f"{card.arch} takes images of at least {kind.smallest} pixels a side, got {card.shape}")
    if not len(card.mean) == len(card.std) == card.shape[0] or min(card.std) <= 0:
        raise InputError(f"mean and std need one number per channel, std above 0, got {card.mean} and {card.std}")
    with seeded(card.seed):
        return Classifier(kind.network(card.shape, card.classes), card)
