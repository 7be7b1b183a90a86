"""Models that decide for each example which of their parts answers: the parts are attacked, the decision is steered."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from deceptive.brief import BRIEF
from nofreelunch.attacks import PGD
from nofreelunch.attacks.worst_of import restarts
from nofreelunch.evaluation import evaluate
from nofreelunch.evaluation.remedies.bpda import bpda
from nofreelunch.evaluation.remedies.deciding import Deciding
from nofreelunch.evaluation.remedies.decisions import Steered, decisions, steered
from nofreelunch.evaluation.subject import Subject
from nofreelunch.threats import L2, Linf

pytestmark = pytest.mark.usefixtures("unchecked")

EPS, SIZE = 0.05, 40
Gate = Callable[[Tensor], Tensor]


class Parts(nn.Module):
    """Two linear networks; a gate hands an example to the first of them, the weaker one, or to the second."""

    def __init__(self, gate: Gate, weight: float = 3.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weak, self.strong = (nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 3)) for _ in range(2))
        with torch.no_grad():
            self.weak[1].weight.mul_(weight)
        self.gate = gate


class ByIndex(Parts):
    """Each network is asked about its own examples only."""

    def forward(self, x: Tensor) -> Tensor:
        mask = self.gate(x)
        logits = torch.empty(len(x), 3)
        logits[mask], logits[~mask] = self.weak(x[mask]), self.strong(x[~mask])
        return logits


class ByWhere(Parts):
    """Both are asked about all, and one is believed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.gate(x)[:, None], self.weak(x), self.strong(x))


def dull(x: Tensor) -> Tensor:
    return x.flatten(1).std(1) < 0.27


def inputs(n: int) -> Tensor:
    return torch.rand(n, SIZE, generator=torch.Generator().manual_seed(1))


def direction() -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(2)).sign()


def ways(model: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    return decisions(Linf(EPS), Subject(model), x, torch.ones(len(x), dtype=torch.long))


@pytest.mark.parametrize(
    ("gate", "count"),
    [
        (dull, 2),
        (lambda x: x.mean(1).sub(0.5).abs() < 0.02, 2),
        (lambda x: (x.mean(1) > 0.48) & (x.mean(1) < 0.52), 6),
        (lambda x: x[:, :3].argmax(1) == 1, 3),
        (lambda x: x[:, :4].argmax(1) == 1, 4),
    ],
)
@pytest.mark.parametrize("parts", [ByIndex, ByWhere])
def test_decisions_are_found(parts: type[Parts], gate: Gate, count: int) -> None:
    """What follows another decision is none of its own."""
    assert len(ways(parts(gate), inputs(30))) == count


@pytest.mark.parametrize(("parts", "count"), [(ByWhere, 2), (ByIndex, 1)])
def test_a_decision_made_in_numpy_is_one(parts: type[Parts], count: int) -> None:
    """Of an index the complement alone is seen; where it is made empty some examples get no answer: that is no way."""
    assert len(ways(parts(lambda x: torch.from_numpy(x.numpy().mean(1) < 0.5)), inputs(30))) == count


class Checked(Parts):
    """It refuses what it does not expect, measures the range of each example, and has a mask of its own."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self.mask = nn.Parameter(torch.ones(30))

    def forward(self, x: Tensor) -> Tensor:
        if not (x.abs().amax(1) <= 1e6).all():
            raise ValueError("out of range")
        x = x * (self.mask > 0).float().mean()
        x = x / x.max(1).values[:, None]
        return torch.where(self.gate(x)[:, None], self.weak(x), self.strong(x))


def test_neither_what_refuses_nor_a_value_nor_a_weight_is_a_decision() -> None:
    """The second of what is decided is the gate; that the first fails where it is made otherwise is no obstacle."""
    assert {*ways(Checked(dull), inputs(30))} == {(0, 1), (2, 0), (2, 1)}
    assert {*ways(Checked(dull), inputs(20))} == {(0, 1), (2, 0), (2, 1)}


@pytest.mark.parametrize(
    "nearest",
    [
        lambda d: d.argmin(1),
        lambda d: (-d).argmax(1),
        lambda d: (-d).topk(1).indices[:, 0],
        lambda d: d.topk(1, 1, False).indices[:, 0],
        lambda d: d.topk(2, largest=False)[1][:, 0],
        lambda d: d.min(1)[1],
        lambda d: d.sort(1)[1][:, 0],
        lambda d: d.argsort()[:, 0],
        lambda d: (-d).argsort(descending=True)[:, 0],
    ],
)
def test_the_nearest_is_chosen_in_many_ways(nearest: Callable[[Tensor], Tensor]) -> None:
    """Each side can be steered to: what rises towards it is the smallness of its distance."""
    codes = torch.rand(3, SIZE, generator=torch.Generator().manual_seed(4))
    model = ByWhere(lambda x: nearest(torch.cdist(x, codes)) == 1)
    mode = Deciding(x := inputs(30))
    with bpda(mode):
        model(x)
    rising = mode.seen[0].rising
    assert rising is not None
    assert torch.equal(rising.argmax(1), mode.seen[0].value)
    assert torch.equal(rising.argmax(1), torch.cdist(x, codes).argmin(1))


class Scaled(nn.Module):
    """By the larger of two numbers, which is a number and no choice."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * torch.max(x.mean(1), x.std(1))[:, None]


def test_a_network_of_one_piece_decides_nothing() -> None:
    net = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
    assert ways(net, inputs(30)) == []
    assert ways(nn.Sequential(net, nn.Softmax(1)), inputs(1)) == []
    assert ways(Scaled(net), inputs(30)) == []


def best_lead(layer: nn.Linear, x: Tensor, sign: int, bound: float, target: int, label: int) -> float:
    """The largest lead of a class within the cube and one side of a linear gate, by a linear program; -inf if empty."""
    slope = (layer.weight[target] - layer.weight[label]).double().numpy()
    box = np.stack([(x - EPS).clamp(0, 1).double().numpy(), (x + EPS).clamp(0, 1).double().numpy()], 1)
    found = linprog(-slope, sign * direction().double().numpy()[None], [sign * bound], bounds=box)
    return -found.fun + float(layer.bias[target] - layer.bias[label]) if found.status == 0 else -np.inf


def lost(model: Parts, x: Tensor, y: Tensor, side: int, bound: float) -> Tensor:
    """Which examples can be broken on one side of the gate `x @ direction() < bound`; exact."""
    layer = (model.weak if side else model.strong)[1]
    with torch.no_grad():
        leads = [
            [best_lead(layer, row, 1 if side else -1, bound, k, label) for k in range(3) if k != label]
            for row, label in zip(x, y.tolist(), strict=True)
        ]
    return torch.tensor(leads).amax(1) > 0


@pytest.fixture(params=[ByIndex, ByWhere])
def gated(request: pytest.FixtureRequest) -> tuple[Parts, Tensor, Tensor, float]:
    """A linear gate that half of the examples can pass, the examples, their labels and the gate's bound."""
    x, w = inputs(40), direction()
    bound = float((x @ w).median()) - 0.5
    model = request.param(lambda z: z @ w < bound)
    return model, x, model(x).argmax(1), bound


@pytest.mark.parametrize("side", [0, 1])
def test_what_can_be_reached_behind_a_linear_gate_is_reached(
    gated: tuple[Parts, Tensor, Tensor, float], side: int
) -> None:
    model, x, y, bound = gated
    broken = torch.zeros(len(x), dtype=torch.bool)
    for rank in (1, 2):
        attack = Steered(Linf(EPS), 40, subject=Subject(model), place=0, side=side, target_rank=rank)
        z = attack(model, x, y, torch.Generator().manual_seed(0))
        assert attack.threat.contains(z, x).all()
        broken |= model(z).argmax(1) != y
    truth = lost(model, x, y, side, bound)
    assert 5 < truth.sum() < 35
    assert (truth & ~broken).sum() <= 1


def test_evaluate_looks_behind_gates(gated: tuple[Parts, Tensor, Tensor, float]) -> None:
    model, x, y, bound = gated
    found = evaluate(model, (x, y), Linf(EPS), BRIEF)
    truth = ~(lost(model, x, y, 1, bound) | lost(model, x, y, 0, bound))
    assert abs(found.robust.correct - truth.sum()) <= 1, found
    assert found.by_attack["remedy: decisions"].correct <= found.by_attack["pgd-10"].correct - 5, found
    assert not found.trusted


CHOICES: dict[str, Gate] = {
    "argmax": lambda scores: scores.argmax(1),
    "max": lambda scores: torch.max(scores, 1)[1],
    "argmin": lambda scores: (-scores).argmin(-1),
    "min": lambda scores: (-scores).min(dim=1).indices,
    "topk": lambda scores: scores.topk(1).indices[:, 0],
    "first of two": lambda scores: scores.topk(2).indices[:, 0],
}


class Routed(nn.Module):
    """Linear networks, each of which takes its own examples, as mixtures of experts are written; one is weak."""

    def __init__(self, choose: str = "argmax", count: int = 4, weak: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router, self.choose = nn.Linear(SIZE, count), CHOICES[choose]
        self.experts = nn.ModuleList(nn.Linear(SIZE, 3) for _ in range(count))
        with torch.no_grad():
            self.router.bias[weak] -= 0.7
            self.experts[weak].bias.add_(torch.tensor([9.0, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        route, logits = self.choose(self.router(x)), torch.zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows = (route == number).nonzero().squeeze(1)
            logits = logits.index_copy(0, rows, expert(x[rows]))
        return logits


@pytest.mark.parametrize("choose", CHOICES)
def test_each_expert_is_steered_to(choose: str) -> None:
    """The one that answers one class to everything takes all examples that can be handed to it: a linear program."""
    model, x = Routed(choose), inputs(40)
    y = torch.ones(len(x), dtype=torch.long)
    attack = Steered(Linf(EPS), 40, subject=Subject(model), place=0, side=1)
    assert ways(model, x) == [(0, side) for side in range(4)]
    z = attack(
        lambda z: nn.functional.one_hot((model.router(z).argmax(1) != 1).long(), 2).float(),
        x,
        y,
        torch.Generator().manual_seed(0),
    )
    found = model.router(z).argmax(1) == 1
    weight, bias = model.router.weight.detach().double().numpy(), model.router.bias.detach().double().numpy()
    others = [0, 2, 3]
    truth = []
    for row in x.double().numpy():
        box = np.stack([(row - EPS).clip(0, 1), (row + EPS).clip(0, 1)], 1)
        program = linprog(np.zeros(SIZE), weight[others] - weight[1], bias[1] - bias[others], bounds=box)
        truth.append(program.status == 0)
    assert 5 < sum(truth) < 35
    assert (torch.tensor(truth) & ~found).sum() <= 2  # three borders meet there


def test_of_many_experts_the_weakest_are_steered_to() -> None:
    """It takes no example as it is, and all are a step away."""
    model, x = Routed(count=100, weak=99), inputs(40)
    assert not (model.router(x).argmax(1) == 99).any()
    found = ways(model, x)
    assert len(found) == 12
    assert found[0] == (0, 99)


@pytest.mark.parametrize("parts", [ByIndex, ByWhere])
def test_behind_a_curved_gate_and_in_another_ball_steering_finds_more(parts: type[Parts]) -> None:
    model, x, threat = parts(dull), inputs(40), L2(0.3)
    y = model(x).argmax(1)
    found = steered(threat, Subject(model), (x, y), (12, 20))
    assert found is not None
    attacks = (restarts(PGD(threat, steps=40), 3), found[1])
    own, beyond = (model(attack(model, x, y, torch.Generator().manual_seed(0))).argmax(1) == y for attack in attacks)
    assert 0 < beyond.sum() <= own.sum() - 5
