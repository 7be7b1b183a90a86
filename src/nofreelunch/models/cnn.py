"""The paper's MNIST network, and the linear classifier."""

import math
from collections import OrderedDict

from torch import nn

from nofreelunch.models.classifier import Shape


def linear(shape: Shape, classes: int) -> nn.Module:
    """One affine function of all pixels for each class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mnist_cnn(shape: Shape, classes: int) -> nn.Module:
    """The paper's network: 32 and 64 filters, 1024 units (Tsipras et al. 2018, Appendix A, after Madry et al. 2018)."""
    return _cnn(shape, classes, filters=(32, 64), hidden=1024)


def mnist_cnn_small(shape: Shape, classes: int) -> nn.Module:
    """The same with 16 and 32 filters and 128 units: a fifteenth of the weights."""
    return _cnn(shape, classes, filters=(16, 32), hidden=128)


def _cnn(shape: Shape, classes: int, filters: tuple[int, int], hidden: int) -> nn.Module:
    """Two 5x5 convolutions, each followed by ReLU and 2x2 pooling, then one hidden layer."""
    channels, height, width = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, filters[0], 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(filters[0], filters[1], 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(filters[1] * (height // 4) * (width // 4), hidden),
            relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, classes),
        )
    )
