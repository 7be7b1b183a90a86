"""The networks and images that are attacked, and the raw limit: one plain pass forward, and back to the input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nofreelunch.data import Dataset, Split
from nofreelunch.data.dataset import with_statistics
from nofreelunch.models.classifier import Card
from nofreelunch.models.registry import assemble

SHAPES = {"mnist-cnn": (1, 28, 28), "mnist-cnn-small": (1, 28, 28), "cifar-resnet": (3, 32, 32)}


def network(arch: str, classes: int = 10) -> nn.Module:
    """An untrained network of the paper (time does not depend on the weights), with batch-norms that do something."""
    shape = SHAPES[arch]
    model = assemble(Card(arch, shape, classes, (0.0,) * shape[0], (1.0,) * shape[0])).eval()
    rng = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features, generator=rng) / 10
            layer.running_var = torch.rand(layer.num_features, generator=rng) + 0.5
    return model


def images(model: nn.Module, arch: str, n: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random images with the model's own answers as labels, so that a short perturbation breaks none of them."""
    x = torch.rand(n, *SHAPES[arch], generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        return x, model(x).argmax(1)


def random_data(arch: str, n: int = 4096) -> Dataset:
    """Random images for training: what a step costs does not depend on what it sees."""
    rng, labels = torch.Generator().manual_seed(2), tuple(range(10))
    x = torch.randint(256, (n, *SHAPES[arch]), generator=rng, dtype=torch.uint8)
    split = Split(x, torch.arange(n) % 10, labels)
    return with_statistics("random", tuple(map(str, labels)), split, split.take(10))


def raw_passes(model: nn.Module, x: Tensor, y: Tensor, count: int) -> None:
    """What no attack can do without: `count` forward passes, each differentiated with respect to the input."""
    for _ in range(count):
        z = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
