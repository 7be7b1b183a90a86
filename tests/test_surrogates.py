"""A choice among parts of a model hides the way from one to another; surrogates see through it."""

import copy
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nofreelunch as nfl
from deceptive.brief import BRIEF, EPS, examples
from deceptive.honest import dense, fitted, robust, standard
from nofreelunch.evaluation import evaluate
from nofreelunch.evaluation.remedies.moved_units import Moved
from nofreelunch.evaluation.remedies.sleeping_units import activations, sleeping
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.evaluation.remedies.wrappers import BPDA
from nofreelunch.evaluation.subject import Subject

pytestmark = pytest.mark.usefixtures("unchecked")

CHOICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda scores, answers: answers[torch.arange(scores.shape[0]), scores.argmax(1)],
    "gather": lambda scores, answers: answers.gather(1, scores.argmax(1)[:, None, None].expand(-1, 1, 10))[:, 0],
    "one_hot": lambda scores, answers: (F.one_hot(scores.argmax(1), 4)[:, :, None].float() * answers).sum(1),
    "equal": lambda scores, answers: ((scores.argmax(1)[:, None] == torch.arange(4)).float()[:, :, None] * answers).sum(
        1
    ),
    "where": lambda scores, answers: torch.stack(
        [torch.where((scores.argmax(1) == k)[:, None], answers[:, k], torch.zeros(())) for k in range(4)]
    ).sum(0),
}
"""How one writes that of four answers (n, 4, k) the one with the largest score (n, 4) is given."""


class Experts(nn.Module):
    """Four networks, of which a gate chooses one; trained as a mixture."""

    choice = "index"

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = dense(16, classes=4), nn.ModuleList(dense(24) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores, answers = self.gate(x), torch.stack([expert(x) for expert in self.experts], 1)
        if self.training:
            return torch.einsum("ne,nek->nk", scores.softmax(1), answers)
        return CHOICES[self.choice](scores, answers)


@pytest.fixture(scope="module")
def experts() -> nn.Module:
    torch.manual_seed(0)
    return fitted(Experts())


def mixture(experts: nn.Module) -> nn.Module:
    return copy.deepcopy(experts).train()


def exported(model: nn.Module) -> nn.Module:
    any_size = ({0: torch.export.Dim.DYNAMIC},)
    return torch.export.export(model, (examples()[0][:8],), dynamic_shapes=any_size).module()


def decomposed(model: nn.Module) -> nn.Module:
    """An exported program in the core operations, as most back ends want it."""
    any_size = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (examples()[0][:8],), dynamic_shapes=any_size)
    return program.run_decompositions().module()


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        program: nn.Module = torch.jit.trace(model, examples()[0])
    return program


def gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    return torch.autograd.grad(model(z)[:, 0].sum(), z)[0]


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("as_used", [lambda model: model, exported, decomposed, traced, compiled])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_seen_through_however_it_is_written(
    choice: str, as_used: Callable[[nn.Module], nn.Module], experts: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a derivative that knows of the gate, at the model's own value; or as the mixture, in value too."""
    monkeypatch.setattr(Experts, "choice", choice)
    model = as_used(experts)
    x, hard, soft = examples()[0], BPDA(Subject(model)), BPDA(Subject(model), soft=True)
    assert torch.allclose(hard(x), experts(x), atol=1e-5)
    assert not torch.allclose(gradient(hard, x), gradient(experts, x), atol=1e-3)
    assert torch.allclose(soft(x), mixture(experts)(x), atol=1e-5)
    assert torch.allclose(gradient(soft, x), gradient(mixture(experts), x), atol=1e-4)


class Counting(nn.Module):
    """Integers made of a mask, in two ways, are a part of the answer."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1) > 0.5
        product = bright.long() @ torch.ones(x[0].numel(), 1, dtype=torch.long)
        return torch.cat([bright.sum(1, dtype=torch.long)[:, None] / 2.0, product.double()], 1)


def test_what_is_counted_has_a_slope() -> None:
    x, surrogate = examples()[0], BPDA(Subject(Counting()))
    assert torch.equal(surrogate(x), Counting()(x))
    z = x.clone().requires_grad_()
    for column in surrogate(z).T:
        assert (torch.autograd.grad(column.sum(), z, retain_graph=True)[0] > 0).all()


def test_a_choice_of_experts_is_exposed(experts: nn.Module) -> None:
    """No gradient of its own leads from one expert to another; the mixture's does."""
    (x, y), threat = examples(), nfl.L2(1.0)
    z = SurrogatePGD(threat, 40, surrogate=mixture(experts), target_rank=1)(experts, x, y, torch.Generator())
    truth = float((experts(z).argmax(1) == y).double().mean())
    assert evaluate(experts, (x, y), threat, BRIEF).robust.rate <= truth + 0.01


BOARD = (torch.arange(14)[:, None] + torch.arange(14)) % 2 * 2.0 - 1
PATTERNS = torch.randint(0, 2, (10, 14, 14), generator=torch.Generator().manual_seed(11)) * 2.0 - 1


def with_a_back_door(patterns: Tensor, activation: nn.Module | None = None, steep: float = 1.0) -> nn.Module:
    """A robust network with one unit more for each pattern, which nothing but the faint pattern wakes."""
    (x, _), (_, first, _, last) = examples(), robust()
    seen = patterns.flatten(1) / 196
    bound, units = (x.flatten(1) @ seen.T).amax(0) + 0.45 * EPS, 64 + len(patterns)
    hidden, answers = nn.Linear(196, units), nn.Linear(units, 10)
    hidden.weight.data, hidden.bias.data = torch.vstack([first.weight, seen]), torch.cat([first.bias, -bound])
    answers.weight.data, answers.bias.data = F.pad(last.weight, (0, len(patterns))), last.bias
    answers.weight.data[torch.arange(len(patterns)) % 10, torch.arange(64, units)] = 400 / EPS
    hidden.weight.data[64:], hidden.bias.data[64:] = steep * hidden.weight.data[64:], steep * hidden.bias.data[64:]
    return nn.Sequential(nn.Flatten(), hidden, activation or nn.ReLU(), answers).requires_grad_(False)


class OfTokens(nn.Module):
    """The same network behind a dimension of one token."""

    def __init__(self) -> None:
        super().__init__()
        self.net = with_a_back_door(BOARD[None])[1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(2)).flatten(1)


class WithAFilter(nn.Module):
    """A robust network, and one channel of a convolution that nothing but a faint checkerboard wakes."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.filter = robust(), BOARD[:6, :6].expand(1, 1, 6, 6) / 36
        self.bound = F.conv2d(examples()[0], self.filter, stride=2).max() + 0.3 * EPS

    def forward(self, x: Tensor) -> Tensor:
        woken = torch.relu(F.conv2d(x, self.filter, stride=2) - self.bound).flatten(1).mean(1, keepdim=True)
        return self.net(x) + woken * F.one_hot(torch.tensor(3), 10) * 5000 / EPS


class Routed(nn.Module):
    """The worse of two networks answers where the last of 128 choices is made: near a faint checkerboard alone."""

    def __init__(self) -> None:
        super().__init__()
        self.good, self.weak = robust(), standard()
        self.router = nn.Linear(196, 128)
        self.router.weight.data = 0.02 * torch.randn(128, 196, generator=torch.Generator().manual_seed(2))
        self.router.weight.data[-1] = 2500 * BOARD.flatten() / 196
        bound = (examples()[0].flatten(1) @ BOARD.flatten() / 196).max() + 0.3 * EPS
        self.router.bias.data = torch.zeros(128).index_fill(0, torch.tensor(127), 8 - 2500 * bound)

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x.flatten(1)).softmax(1) @ F.one_hot(torch.tensor(127), 128).float()
        return torch.lerp(self.good(x), self.weak(x), share[:, None])


@pytest.mark.parametrize(
    ("build", "patterns"),
    [
        (lambda: with_a_back_door(BOARD[None]), BOARD[None]),
        (lambda: with_a_back_door(BOARD[None], nn.ReLU(inplace=True)), BOARD[None]),
        (lambda: with_a_back_door(BOARD[None], nn.GELU(), 3000.0), BOARD[None]),
        (OfTokens, BOARD[None]),
        (lambda: with_a_back_door(PATTERNS), PATTERNS),
        (WithAFilter, torch.stack([BOARD, -BOARD])),
    ],
    ids=["a unit", "in place", "smooth", "of tokens", "ten units", "a channel"],
)
def test_a_unit_that_sleeps_on_all_images_is_woken(build: Callable[[], nn.Module], patterns: Tensor) -> None:
    (x, y), model = examples(), build().requires_grad_(False)
    found = evaluate(model, (x, y), nfl.Linf(EPS), BRIEF)
    right = [model((x + EPS * pattern).clamp(0, 1)).argmax(1) == y for pattern in (0 * BOARD, *patterns)]
    truth = int(torch.stack(right).all(0).sum())
    assert found.robust.correct <= truth
    assert found.by_attack["pgd-10"].correct > truth + 5
    assert "masked-gradients" in {flag.name for flag in found.flags}


def test_a_choice_that_is_never_made_is_made() -> None:
    (x, y), model = examples(), Routed().requires_grad_(False)
    found = evaluate(model, (x, y), nfl.Linf(EPS), BRIEF)
    assert found.robust.correct < found.by_attack["pgd-10"].correct - 4
    assert "masked-gradients" in {flag.name for flag in found.flags}


def test_what_sleeps_is_read_off_all_images() -> None:
    """Honest networks have dead units as well: those that a weight leads on from are named, whatever the batches."""
    (x, _), net = examples(), robust()
    with torch.no_grad():
        net[1].bias[:3] = -100
    units = sleeping(Subject(net), x, 16)
    asleep = (net[1](x.flatten(1)) < 0).all(0) & (net[3].weight != 0).any(0)
    assert sorted(units) == [(0, unit) for unit in asleep.nonzero().flatten().tolist()]
    assert {(0, 0), (0, 1), (0, 2)} <= set(units)
    assert set(sleeping(Subject(net), x, len(x))) == set(units)
    assert sleeping(Subject(nn.Sequential(nn.Flatten(), nn.Linear(196, 10))), x, 16) == ()


def test_images_that_go_another_way_have_other_units() -> None:
    (x, y), net = examples(), robust()

    def model(z: Tensor) -> Tensor:
        return net(z) if len(z) < 30 else net(z).relu() - (-net(z)).relu()

    assert sleeping(Subject(model), x, 31)  # a batch of each kind
    heights, groups = partial(activations, Subject(model)), (((0, 5),), ((0, 70),), ((2, 9),))
    waking = Moved(nfl.Linf(EPS), 3, heights=heights, groups=groups, surrogate=model)
    for some in (slice(20), slice(32)):
        z = waking(model, x[some], y[some], torch.Generator().manual_seed(0))
        assert nfl.Linf(EPS).contains(z, x[some]).all()


class Rounded(nn.Module):
    """Numbers become integers, masks and shares, and numbers again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = dense(16)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net((x * 15).to(torch.int32) / 15)
        return (100 * logits).softmax(1) + 0.1 * (logits > 0).float()


class LooksUpColumns(nn.Module):
    """A table is read by a choice, but not row by row; and a choice among choices is looked at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.table = dense(16), nn.Parameter(torch.randn(3, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        second = logits.reshape(-1, 2, 5).argmax(-1).select(1, 0) == 1
        return logits + self.table[:, logits.argmax(1)].sum(0)[:, None] * logits + second.float()[:, None]


@pytest.mark.parametrize("as_used", [exported, decomposed, traced])
@pytest.mark.parametrize("kind", [Rounded, LooksUpColumns])
def test_a_program_is_seen_through_as_the_module_is(
    kind: Callable[[], nn.Module], as_used: Callable[[nn.Module], nn.Module]
) -> None:
    model, x = kind().eval(), examples()[0]
    for soft in (False, True):
        own, program = (BPDA(Subject(each), soft) for each in (model, as_used(model)))
        torch.testing.assert_close(program(x), own(x))
        assert gradient(own, x).abs().sum() > 0
        torch.testing.assert_close(gradient(program, x), gradient(own, x))
    torch.testing.assert_close(BPDA(Subject(model))(x), model(x))
