"""Small classifiers of digits, trained here in a second or two, that hide nothing."""

import itertools
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nofreelunch as nfl

SIDE = 14
CLASSES = 10


@lru_cache
def digits(train: bool) -> tuple[Tensor, Tensor]:
    """MNIST at half its resolution, as 8-bit pixels in [0, 1]: (n, 1, 14, 14) and labels."""
    data = nfl.load_data("mnist")
    split = data.train.take(4000) if train else data.test.take(400)
    x = F.avg_pool2d(split.images(), 2)
    return (x * 255).round() / 255, split.targets


def dense(*hidden: int, classes: int = CLASSES) -> nn.Sequential:
    """An untrained network of fully connected layers with ReLUs between."""
    widths = (SIDE * SIDE, *hidden, classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)


@torch.enable_grad()  # it may be made at the first call of a model that is being judged
def fitted(model: nn.Module, eps: float = 0.0, steps: int = 300, rate: float = 5e-3) -> nn.Module:
    """The model after Adam on the training digits, against a PGD adversary if eps > 0; in evaluation mode."""
    x, y = digits(train=True)
    rng = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    adversary = nfl.PGD(nfl.Linf(eps), steps=4) if eps else None
    model.train()
    for _ in range(steps):
        index = torch.randint(len(x), (128,), generator=rng)
        z = adversary.ascend(model, x[index], y[index], rng) if adversary else x[index]
        optimiser.zero_grad()
        F.cross_entropy(model(z), y[index]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval().requires_grad_(False)


class SortPairs(nn.Module):
    """Each pair of neighbours sorted: a 1-Lipschitz activation that keeps gradients (Anil et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, ::2], x[:, 1::2]
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


class Orthogonal(nn.Linear):
    """A linear layer whose weight matrix is made orthonormal at every call (by the polar decomposition)."""

    def forward(self, x: Tensor) -> Tensor:
        u, _, v = torch.linalg.svd(self.weight, full_matrices=False)
        return F.linear(x, u @ v, self.bias)


@lru_cache
def linear() -> nn.Module:
    torch.manual_seed(0)
    return fitted(dense())


@lru_cache
def standard() -> nn.Module:
    torch.manual_seed(0)
    return fitted(dense(48))


@lru_cache
def robust() -> nn.Module:
    torch.manual_seed(0)
    return fitted(dense(64), eps=0.1, steps=400)


@lru_cache
def lipschitz() -> nn.Module:
    torch.manual_seed(0)
    return fitted(
        nn.Sequential(nn.Flatten(), Orthogonal(196, 32), SortPairs(), Orthogonal(32, 10)), steps=200, rate=2e-2
    )


@lru_cache
def convolutional() -> nn.Module:
    """With batch-norm and dropout, which are at rest in evaluation mode."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(200, 10))
    return fitted(nn.Sequential(*layers))


HONEST = {f.__name__: f for f in (linear, standard, robust, lipschitz, convolutional)}
