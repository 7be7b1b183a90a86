"""Ways in which an evaluation once told more robustness than there is: each stays closed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nofreelunch.attacks import APGD, FAB, EachTarget, Square
from nofreelunch.errors import InputError
from nofreelunch.evaluation import Evaluation, evaluate
from nofreelunch.evaluation.protocols import STANDARD, Protocol
from nofreelunch.rng import Streams
from nofreelunch.threats import Linf

THREAT = Linf(0.1)
BRIEF = Protocol(
    "brief",
    first=("fgsm", lambda threat: APGD(threat, steps=2)),
    main={"apgd-ce": lambda threat: APGD(threat, steps=4), "square": lambda threat: Square(threat, steps=10)},
    harder=lambda threat: APGD(threat, steps=4),
    sample=8,
    probing=4,
    thorough=4,
)


def linear(d: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(d, 3))


def inputs(n: int, d: int = 4) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(1))


def judged(model: Callable[[Tensor], Tensor], x: Tensor, **settings: object) -> Evaluation:
    return evaluate(model, (x, model(x).argmax(1)), THREAT, **{"protocol": BRIEF, **settings})  # type: ignore[arg-type]


class Gates(nn.Module):
    """Class 2 wins at the end of a chain of pixels; each counts only once those before it are at their ends."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.signs = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(5)) * 2.0 - 1

    def forward(self, x: Tensor) -> Tensor:
        delta = x - 0.5
        progress, gate = torch.zeros(len(x)), torch.ones(len(x))
        for place in range(self.length):
            step = (delta[:, place] * 20 * self.signs[place]).clamp(-1, 1)
            progress = progress + gate * (step + 1) / 2
            gate = gate * torch.relu(step)
        first = 1 + 0.05 * delta[:, -1]
        second = 0.8 - 0.05 * delta[:, -1] + 10 * torch.relu(delta[:, 26:36].abs().amax(1) - 0.15)
        return 5 * torch.stack([first, second, 4 * progress / self.length - 2.9], 1)


def test_attacks_that_give_examples_up_find_no_less() -> None:
    """Every example of this model needs its attack's last steps."""
    x = 0.48 + 0.02 * torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    short = {
        "apgd-ce": lambda threat: APGD(threat, patience=1),
        "fab-t": lambda threat: EachTarget(FAB(threat, reach=1.1)),
    }
    whole = {"apgd-ce": APGD, "fab-t": lambda threat: EachTarget(FAB(threat))}
    brief = replace(STANDARD, sample=8, probing=4, thorough=4, harder=lambda threat: APGD(threat, steps=20))
    cut, uncut = (judged(Gates(23), x, protocol=replace(brief, name="", main=main)) for main in (short, whole))
    assert uncut.robust.rate < 0.8 * uncut.clean.rate
    assert cut.robust.rate <= uncut.robust.rate + 0.1


class Unsure:
    """Right about itself; about the points of attack k it is right with the probability that is theirs."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor) -> Tensor:
        wrong = torch.rand(len(x), generator=self.rng) < 10 * (x[:, 0] - 0.5)
        return torch.stack([~wrong, wrong], 1).float() * 4 + x[:, 1:3] * 0


@dataclass(frozen=True)
class Shift:
    by: float

    def __call__(self, model: object, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        z = x.clone()
        z[:, 0] += self.by
        return z


def test_more_attacks_raise_no_figure_of_a_randomised_model() -> None:
    x = torch.full((40, 4), 0.5)
    y = torch.zeros(40, dtype=torch.long)
    worse, better = Shift(0.06), Shift(0.04)
    few, many = (
        evaluate(Unsure(), (x, y), THREAT, replace(BRIEF, main={}), attacks=attacks)
        for attacks in ({"a": worse}, {"a": worse, **{f"b{k}": better for k in range(15)}})
    )
    assert many.robust.rate <= few.robust.rate + 0.02


def test_a_remedy_takes_no_attack_s_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without gradients gets the whole of the protocol's Square, whatever was run before."""
    steps, search = [], Square.search

    def spy(self: Square, *args: object) -> Tensor:
        steps.append(self.steps)
        return search(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Square, "search", spy)
    net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    judged(lambda z: net(z.detach()) * 10, inputs(60, 16))
    assert 10 in steps


@pytest.mark.parametrize("name", ["clean", "fgsm", "square"])
def test_an_attack_of_the_caller_s_needs_a_name_of_its_own(name: str) -> None:
    with pytest.raises(InputError, match="is a step of the protocol brief; give your attack another name"):
        judged(linear(), inputs(30), attacks={name: Shift(0.05)})


@pytest.mark.parametrize("name", ["questions", "scouting", "convergence", "whole box", "random search", "given up"])
def test_an_attack_of_the_caller_s_runs_under_any_other_name(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    assert name in judged(model, inputs(30), attacks={name: Shift(0.05)}).by_attack


@dataclass(frozen=True)
class Stubborn(Shift):
    patience: int = 3

    def __call__(self, model: object, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        assert range(self.patience)
        return super().__call__(model, x, y, rng)


def test_callers_attacks_keep_their_settings_on_odd_models() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    assert "mine" in judged(net, inputs(30), attacks={"mine": Stubborn(0.05)}).by_attack


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale = nn.Linear(4, 3), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x * self.scale).tanh())


@pytest.mark.parametrize(
    ("settings", "changed"),
    [({}, "model was"), ({"attacks": {"mine": Shift(0.02)}}, "attacks was"), ({"protocol": STANDARD}, "protocol was")],
)
def test_what_was_kept_of_another_evaluation_is_not_taken_up(
    settings: dict[str, object], changed: str, tmp_path: Path
) -> None:
    x = inputs(30)
    y, first = Scaled(1)(x).argmax(1), {"protocol": BRIEF, "attacks": {"mine": Shift(0.01)}}
    evaluate(Scaled(1), (x, y), THREAT, out=tmp_path, **first)  # type: ignore[arg-type]
    other = Scaled(1) if settings else Scaled(5)
    with pytest.raises(InputError, match=changed):
        evaluate(other, (x, y), THREAT, out=tmp_path, **{**first, **settings})  # type: ignore[arg-type]


def test_examples_kept_are_those_of_this_evaluation(tmp_path: Path) -> None:
    judged(Scaled(1), inputs(40), out=tmp_path, keep_examples=True)
    for path in tmp_path.glob("*.state*"):
        path.unlink()
    kept = judged(Scaled(1), inputs(20), out=tmp_path, keep_examples=True)
    assert kept.x_adv is not None
    assert kept.x_adv.shape == (20, 4)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)


class Difference(Pair):
    """relu(a x) - b x, written as a sum with a factor."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(torch.relu(self.a(x)), self.b(x), alpha=-1)


class OnlyWithGradients(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x)) * 100 + self.b(x) if torch.is_grad_enabled() else self.b(x)


@pytest.mark.parametrize("build", [Difference, OnlyWithGradients])
def test_no_more_is_proven_than_stands(build: Callable[[], nn.Module]) -> None:
    model = build()
    x = inputs(60)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = evaluate(model, (x, y), THREAT, BRIEF)
    assert found.certified is None or found.certified.correct <= found.robust.correct


def test_dropped_points_are_counted_once() -> None:
    x, y = inputs(25), torch.zeros(25, dtype=torch.long)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    counts = {
        evaluate(model, (x, y), THREAT, BRIEF, attacks={"far": Shift(0.5)}, batch_size=n).dropped for n in (2, 25)
    }
    assert len(counts) == 1


def test_known_results_must_hold_what_is_to_be_kept() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), inputs(30)
    y, small = model(x).argmax(1), Linf(0.05)
    known = evaluate(model, (x, y), small, BRIEF)
    with pytest.raises(InputError, match="known must hold its examples"):
        evaluate(model, (x, y), THREAT, BRIEF, known=known, keep_examples=True)
