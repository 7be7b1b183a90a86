"""Weak points behind units that images hardly move, whatever follows these; in honest networks no unit leads on."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nofreelunch as nfl
from deceptive.brief import BRIEF, EPS, THREAT, examples
from deceptive.honest import convolutional, robust, standard
from nofreelunch.evaluation import evaluate
from nofreelunch.evaluation.remedies.quiet_units import quiet
from nofreelunch.evaluation.subject import Subject

pytestmark = pytest.mark.usefixtures("unchecked")

WIDTH = 96
SIGNS = torch.randn(3, 196, generator=torch.Generator().manual_seed(3)).sign()
RIM = F.pad(torch.zeros(10, 10), (2, 2, 2, 2), value=1.0).flatten()
PATTERNS = SIGNS * RIM
"""Of both signs on the rim, where images are black: no image, no flat change and no random search comes near."""


class Behind(nn.Module):
    """A robust network, and 96 units, three of which see a pattern each; they change the answer as `lock` says."""

    def __init__(self, lock: Callable[[Tensor], Tensor], sensor: Callable[..., Tensor] = F.linear) -> None:
        super().__init__()
        self.net, self.lock, self.sensor = robust(), lock, sensor
        weight = 0.005 * torch.randn(WIDTH, 196, generator=torch.Generator().manual_seed(4))
        weight[:3] = PATTERNS / (PATTERNS * trigger()).sum(1, keepdim=True).clamp(min=1)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(WIDTH).index_fill(0, torch.arange(3), -0.6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.sensor(x.flatten(1) / EPS, self.weight, self.bias)
        return self.net(x) + 500 * self.lock(h)[:, None] * F.one_hot(torch.tensor(5), 10)


def trigger() -> Tensor:
    """All three patterns at once, in the box: what would be below 0 is 0."""
    return PATTERNS.sum(0).sign().clamp(min=0)


LOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda h: h[:, 0].relu().square(),
    "maximum": lambda h: torch.maximum(h, torch.zeros_like(h))[:, 0],
    "absolute": lambda h: (h + h.abs())[:, 0],
    "threshold": lambda h: F.threshold(h, 0.0, 0.0)[:, 0],
    "pooled": lambda h: F.max_pool1d(torch.stack([h, 0 * h], 2).flatten(1)[:, None], 2)[:, 0, 0],
    "exponential": lambda h: (60 * (h[:, 0] - 0.3)).exp().clamp(max=1),
    "bump": lambda h: (-(20 * (h[:, 0] - 0.2)).square()).exp(),
    "product": lambda h: h[:, :3].relu().prod(1) * 10,
    "all of them": lambda h: F.linear(h.relu(), (torch.arange(WIDTH) < 3).float()[None], torch.tensor([-0.9])).relu()[
        :, 0
    ],
    "clamped": lambda h: F.linear(h.relu(), (torch.arange(WIDTH) < 3).float()[None], torch.tensor([-0.9])).clamp(0, 1)[
        :, 0
    ],
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_weak_point_behind_quiet_units_is_found(lock: str) -> None:
    (x, y), model = examples(), Behind(LOCKS[lock])
    lengths = torch.linspace(0, 1, 41)[:, None, None, None, None]
    points = (x + EPS * lengths * trigger().view(14, 14)).clamp(0, 1)
    truth = int(torch.stack([model(z).argmax(1) == y for z in points]).all(0).sum())
    found = evaluate(model, (x, y), THREAT, BRIEF)
    assert truth < found.by_attack["pgd-10"].correct - 5
    assert found.robust.correct <= truth


def complex_beside(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(h, weight, bias) + 0 * torch.complex(h[:, :1], h[:, 1:2]).abs()


SENSORS: dict[str, Callable[..., Tensor]] = {
    "einsum": lambda h, weight, bias: torch.einsum("ni,ui->nu", h, weight) + bias,
    "product and sum": lambda h, weight, bias: (h[:, None] * weight).sum(2) + bias,
    "units first": lambda h, weight, bias: (weight @ h.T).T + bias,
    "in parts": lambda h, weight, bias: torch.cat([F.linear(part, weight, bias) for part in h.split(8)]),
    "one by one": lambda h, weight, bias: torch.func.vmap(lambda row: F.linear(row, weight, bias))(h),
    "rows first": lambda h, weight, bias: (
        torch.bmm(h.view(-1, 14, 14).transpose(0, 1), weight.view(-1, 14, 14).permute(1, 2, 0)).sum(0) + bias
    ),
    "complex beside": complex_beside,
}


@pytest.mark.parametrize("sensor", SENSORS)
def test_quiet_units_are_found_whatever_computes_them(sensor: str) -> None:
    (x, y), subject = examples(), Subject(Behind(LOCKS["maximum"], SENSORS[sensor]))
    some = slice(20)
    moved = quiet(THREAT, subject, subject.logits, x, x[some], y[some])
    assert moved is not None
    z = replace(moved, steps=1)(subject.logits, x[some], y[some], torch.Generator().manual_seed(0))
    assert (subject.logits(z).argmax(1) == y[some]).sum() <= 4  # class 5


def test_scores_are_units_too_unless_they_are_the_answer() -> None:
    """Ten patterns, one for each class, in a table that is as wide as the scores."""

    class OfTables(Behind):
        def forward(self, x: Tensor) -> Tensor:
            h = F.linear(x.flatten(1) / EPS, self.weight, self.bias)[:, :10].relu()
            return torch.maximum(self.net(x), 500 * h.roll(5, 1))

    (x, y), subject = examples(), Subject(OfTables(LOCKS["maximum"]))
    assert quiet(THREAT, subject, subject.logits, x, x[:20], y[:20]) is not None


@pytest.mark.parametrize("build", [standard, robust, convolutional])
def test_no_unit_of_an_honest_network_leads_on(build: Callable[[], nn.Module]) -> None:
    (x, y), subject = examples(), Subject(build())
    z = nfl.PGD(nfl.Linf(EPS), steps=20)(build(), x, y, torch.Generator().manual_seed(0))
    standing = subject.logits(z).argmax(1) == y
    assert standing.sum() > 8
    assert quiet(THREAT, subject, subject.logits, x, x[standing], y[standing]) is None
