"""Ways in which an evaluation once told more robustness than there is: each stays closed."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nofreelunch.attacks import APGD, FAB, PGD, EachTarget, Square
from nofreelunch.attacks.eot import Averaged
from nofreelunch.attacks.targets import targeted
from nofreelunch.attacks.worst_of import restarts
from nofreelunch.data import load_data
from nofreelunch.data.cifar10 import load_cifar10_sample
from nofreelunch.errors import InputError
from nofreelunch.evaluation import Evaluation, adaptive, evaluate, journal
from nofreelunch.evaluation.protocols import STANDARD, Protocol
from nofreelunch.evaluation.remedies.confined import Shifted, Snapped
from nofreelunch.evaluation.remedies.coordinate_ascent import CoordinateAscent
from nofreelunch.evaluation.trust.boundary import boundary_flag, jump_flag, largest_jump, steepness
from nofreelunch.evaluation.trust.gradients import gradient_flags, slopes
from nofreelunch.models import load_model, zoo_card
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, Linf, Threat

pytestmark = pytest.mark.usefixtures("unchecked")

THREAT = Linf(0.1)
BRIEF = Protocol(
    "brief",
    first=("fgsm", lambda threat: APGD(threat, steps=2)),
    main={"apgd-ce": lambda threat: APGD(threat, steps=4), "square": lambda threat: Square(threat, steps=10)},
    harder=lambda threat: APGD(threat, steps=4),
    sample=8,
    probing=4,
    thorough=4,
    longest=20,
)


def linear(d: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(d, 3))


def inputs(n: int, d: int = 4) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(1))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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


@pytest.mark.usefixtures("no_remedies")
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


@pytest.mark.parametrize(
    "name", ["clean", "fgsm", "square", "checks", "within 0.1", "more steps", "mine, again", "remedy: mine"]
)
def test_an_attack_of_the_caller_s_needs_a_name_of_its_own(name: str) -> None:
    with pytest.raises(InputError, match="is a step of evaluate itself; give your attack another name"):
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


@pytest.mark.usefixtures("no_remedies")
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


@pytest.mark.usefixtures("no_remedies")
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


@pytest.mark.usefixtures("no_remedies")
def test_known_results_must_hold_what_is_to_be_kept(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), inputs(30)
    y, small = model(x).argmax(1), Linf(0.05)
    known = evaluate(model, (x, y), small, BRIEF)
    with pytest.raises(InputError, match="known must hold its examples"):
        evaluate(model, (x, y), THREAT, BRIEF, known=known, keep_examples=True, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
    for others in (inputs(40), inputs(30).flip(0)):
        with pytest.raises(InputError, match="of the same model and data within a smaller radius"):
            evaluate(model, (others, model(others).argmax(1)), THREAT, BRIEF, known=known)


class Opaque:
    """A callable whose memory cannot be seen: what it holds is a function of another's."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        MODELS["it"] = model

    def __call__(self, x: Tensor) -> Tensor:
        return MODELS["it"](x)


MODELS: dict[str, Callable[[Tensor], Tensor]] = {}


def enclosing(sign: float) -> Callable[[Tensor], Tensor]:
    """A function whose code does not tell one sign from the other."""
    layer = linear()
    return lambda x: sign * layer(x)


def test_a_function_that_answers_otherwise_does_not_go_on(tmp_path: Path) -> None:
    x = inputs(40)
    y = linear()(x).argmax(1)
    first = evaluate(enclosing(1.0), (x, y), THREAT, BRIEF, out=tmp_path)
    with pytest.raises(InputError, match="answers otherwise"):
        evaluate(enclosing(-1.0), (x, y), THREAT, BRIEF, out=tmp_path)
    with pytest.raises(InputError, match="answers otherwise"):
        evaluate(enclosing(-1.0), (x, y), Linf(0.2), BRIEF, known=first)
    assert evaluate(enclosing(1.0), (x, y), THREAT, BRIEF, out=tmp_path).robust == first.robust


def test_what_was_found_to_change_is_found_again(tmp_path: Path) -> None:
    """Its memory is outside of the model, and new in a new process."""
    calls, layer = [0], linear()

    def model(x: Tensor) -> Tensor:
        calls[0] += 1
        return layer(x) * (1 if calls[0] < 60 else -1)

    x = inputs(40)
    y, found = layer(x).argmax(1), []
    for _ in range(2):
        calls[0] = 0
        found.append({flag.name for flag in evaluate(Opaque(model), (x, y), THREAT, BRIEF, out=tmp_path).flags})
    assert found[0] == found[1]
    assert "stateful" in found[0]


def test_checks_of_another_protocol_are_others() -> None:
    changed = [replace(BRIEF, sample=9), replace(BRIEF, probing=5), replace(BRIEF, thorough=5)]
    assert len({protocol.identity(THREAT) for protocol in (BRIEF, *changed)}) == 4


class Locked(nn.Module):
    """Cannot be copied, and its layers take float32 only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.lock, self.calls = nn.Linear(4, 3), threading.Lock(), 0
        self.counts = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.counts
        return self.layer(x.float()).softmax(1) * (1 if self.calls < 30 else -1)


def test_a_model_that_cannot_be_copied_is_left_as_it_was() -> None:
    model = Locked()
    judged(model, inputs(40))
    assert model.layer.weight.dtype == torch.float32
    model.counts = True
    assert "stateful" in [flag.name for flag in judged(model, inputs(40)).flags]


class LockedInTraining(Locked):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x))


def test_one_that_cannot_be_copied_is_attacked_as_it_is_judged() -> None:
    x, model = inputs(40), LockedInTraining().eval()
    y = model(x).argmax(1)
    evaluate(model.train(), (x, y), THREAT, BRIEF)
    assert model.norm.training
    assert model.norm.num_batches_tracked == 0


class Coin:
    """Right with a probability that no input changes."""

    def __init__(self, p: float) -> None:
        self.p, self.rng = p, torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor) -> Tensor:
        right = torch.rand(len(x), generator=self.rng) < self.p
        return torch.stack([right, ~right], 1).float() * 4 + x[:, :2] * 0


def test_looking_often_at_a_random_answer_does_not_lower_it() -> None:
    x = inputs(200)
    attacks = {f"{k}": Shift(0.0) for k in range(12)}
    found = evaluate(Coin(0.7), (x, x[:, 0].long()), THREAT, replace(BRIEF, main={}), attacks=attacks)
    assert abs(found.robust.rate - 0.7) < 0.015
    assert found.x_adv is None


class Noisy(nn.Module):
    """A linear function of a pixel, and noise: right with probability Phi of its value over the deviation."""

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, 0] - 0.5 + 0.1 * torch.randn(len(x))
        return torch.stack([-score, score], 1)


def test_one_lucky_draw_is_not_the_worst_point() -> None:
    x = torch.full((400, 4), 0.58)
    torch.manual_seed(0)
    z = APGD(Linf(0.05), steps=20)(Averaged(Noisy(), 8), x, torch.ones(400, dtype=torch.long), Streams.of(rng(), 400))
    assert z[:, 0].mean() < 0.535


@pytest.mark.parametrize(("kind", "worst"), [(Shifted, 0.544), (Snapped, 0.538)])
def test_nor_is_it_where_a_model_is_asked_for_other_points(kind: type[Shifted] | type[Snapped], worst: float) -> None:
    x = torch.full((400, 4), 148 / 255)
    torch.manual_seed(0)
    model = Averaged(Noisy(), 8)
    z = kind(Linf(0.05), 20, model)(model, x, torch.ones(400, dtype=torch.long), Streams.of(rng(), 400))
    assert z[:, 0].mean() < worst


def test_a_lucky_draw_does_not_end_a_targeted_attack_either() -> None:
    x, y = torch.full((400, 4), 0.58), torch.ones(400, dtype=torch.long)
    torch.manual_seed(0)
    z = targeted(APGD(Linf(0.05), steps=20), Averaged(Noisy(), 8), x, y, 1 - y, Streams.of(rng(), 400))
    assert z[:, 0].mean() < 0.535


class Picky(nn.Module):
    """Refuses inputs that are no pixels, in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: Tensor) -> Tensor:
        assert 0 <= x.min() <= x.max() <= 1
        return self.net(x)


@pytest.mark.parametrize("turn", [0, 1])
def test_a_model_may_refuse_other_ranges(turn: int) -> None:
    x = inputs(40)
    assert evaluate(Picky(), (x, (Picky()(x).argmax(1) + turn) % 3), THREAT, BRIEF).clean.rate == 1 - turn


def test_patience_follows_the_class_that_is_climbed_towards() -> None:
    def model(x: Tensor) -> Tensor:  # the runner-up does not move, the third class comes from behind
        third = -4 + 60 * (x - 0.5).clamp(-0.1, 0.1).mean(1)
        return torch.stack([0 * third, 0 * third - 0.3, third, 0 * third - 9], 1)

    x, y = torch.full((10, 50), 0.5), torch.zeros(10, dtype=torch.long)
    z = EachTarget(APGD(THREAT, loss="dlr-targeted", patience=1.0), 3)(model, x, y, rng())
    assert (model(z).argmax(1) == 2).all()


def test_what_runs_beside_the_class_s_forward_is_not_certified() -> None:
    model = linear()
    before = model.forward
    model.forward = lambda x: -before(x)  # type: ignore[method-assign]
    x = inputs(60)
    found = evaluate(model, (x, linear()(x).argmax(1)), Linf(0.001), BRIEF)
    assert found.certified is None or found.certified.correct <= found.robust.correct


class Majority(nn.Module):
    """Always the first class."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] + 9, x[:, 1]], 1)


def test_naming_the_largest_class_is_no_robustness() -> None:
    x = inputs(200)
    found = evaluate(Majority(), (x, (torch.arange(200) % 10 == 0).long()), THREAT, BRIEF)
    assert found.robust.rate == 0.9
    assert "chance-accuracy" in [flag.name for flag in found.flags]


WEAK = Protocol(
    "weak",
    first=("fgsm", lambda threat: PGD(threat, steps=1)),
    main={"pgd": lambda threat: PGD(threat, steps=1)},
    harder=lambda threat: APGD(threat, steps=25, loss="margin"),
    probing=1,
    thorough=1,
)


class NeedsSteps(nn.Module):
    """Broken after some steps only; at examples whose last pixel is dark, not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = torch.randint(0, 2, (50,), generator=torch.Generator().manual_seed(5)) * 2.0 - 1

    def forward(self, x: Tensor) -> Tensor:
        t, aim = (x - 0.5) * self.sign / 0.1, 0.9 * torch.linspace(-1, 1, 24)
        climb, miss = t[:, :25].clamp(-1, 1).mean(1), (t[:, 25:49] - aim).abs().mean(1)
        logits = torch.stack([0 * climb, -4 + 2.5 * climb + 1.8 * (1 - miss / aim.abs().mean())], 1)
        return torch.where(x[:, -1:] < 0.3, torch.tensor([[2.0, 0.0]]) + 0 * logits, logits)


@pytest.mark.usefixtures("no_remedies")
def test_flags_do_not_depend_on_where_a_run_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_EVERY", 0.0)
    model, x = NeedsSteps(), 0.5 + 0.02 * torch.rand(60, 50, generator=rng())
    x[::10, -1] = 0.1
    y, weak = torch.zeros(60, dtype=torch.long), replace(WEAK, sample=16)
    steps: list[str] = []

    def run(**more: object) -> Evaluation:
        return evaluate(model, (x, y), THREAT, weak, batch_size=16, **more)  # type: ignore[arg-type]

    whole = run(progress=lambda step, done, total: steps.append(step))
    late = [number for number, step in enumerate(steps) if step.startswith("more steps")]
    assert len(late) > 2
    for place in (late[0], late[2]):
        count = iter(range(len(steps)))

        def stop(step: str, done: int, total: int, count: Iterator[int] = count, place: int = place) -> None:
            if next(count) == place:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / str(place), progress=stop)
        assert run(out=tmp_path / str(place)).flags == whole.flags


def test_more_steps_by_the_own_gradient_are_no_surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only longer attacks by it have broken counts, and is no reason to call the gradient masked."""
    monkeypatch.setattr(adaptive, "tried", lambda *given: {"bpda": adaptive.Gain([0], 16)})
    monkeypatch.setattr(adaptive, "_not_made_up_for", lambda *given: {})
    x = 0.5 + 0.02 * torch.rand(60, 50, generator=rng())
    found = evaluate(NeedsSteps(), (x, torch.zeros(60, dtype=torch.long)), THREAT, replace(WEAK, main={}))
    assert found.by_attack["own gradient, again"].correct < found.by_attack["fgsm"].correct - 3, found
    assert "masked-gradients" not in {flag.name for flag in found.flags}, found


def test_what_only_a_check_breaks_is_broken() -> None:
    """One example of 120, too few for the check's attack to be run on all."""
    model, x = NeedsSteps(), 0.5 + 0.02 * torch.rand(120, 50, generator=rng())
    x[:, -1] = 0.1
    x[7, -1] = 0.5
    y, weak = (
        torch.zeros(120, dtype=torch.long),
        replace(WEAK, sample=120, harder=lambda threat: restarts(APGD(threat, 25, "margin"), 9)),
    )
    found = evaluate(model, (x, y), THREAT, weak, keep_examples=True)
    assert found.robust.correct == 119
    assert found.broken_by[7] == "checks"
    assert found.x_adv is not None
    assert (model(found.x_adv).argmax(1) != y).nonzero().tolist() == [[7]]
    assert THREAT.contains(found.x_adv, x).all()


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_a_box_in_other_units_hides_nothing(top: float) -> None:
    """A model that answers at random off the 8-bit grid, and a linear one on it."""
    net = linear(8)

    def model(x: Tensor) -> Tensor:
        levels = x / top * 255
        off = ((levels - levels.round()).abs() > 1e-3).any(1, keepdim=True)
        return torch.where(off, torch.tensor([[5.0, 0.0, 0.0]]) - 5 * net(x / top).argmax(1, True), net(x / top))

    x = (torch.rand(60, 8, generator=rng()) * 255).round() / 255
    with torch.no_grad():
        y = net(x).argmax(1)
    found = evaluate(model, (x * top, y), Linf(0.1 * top, (0.0, top)), BRIEF)
    assert "discontinuous" in [flag.name for flag in found.flags]


def test_an_example_at_a_boundary_is_no_step() -> None:
    """The margin begins just below 0, falls, and rises again: its mean slope is almost 0, and it is no decoy."""

    def smooth(z: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(z), 1), 8 * z.square() - 4 * z - 1e-6], 1)

    def step(z: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(z), 1), (z - 0.5).sign() + 1e-3 * z], 1)

    x, y = torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)
    assert (steepness(smooth, x, y, x + 1) < 10).all()
    assert boundary_flag(steepness(smooth, x, y, x + 1)) is None
    flag = boundary_flag(steepness(step, x, y, x + 1))
    assert flag is not None
    assert flag.name == "steps-at-boundary"
    assert (steepness(smooth, x, y, x) == 0).all()  # towards itself nothing changes


def test_a_gate_between_two_networks_is_told_of() -> None:
    """Dull images go to one network, others to another: each one's gradient is true, and tells nothing of the gate."""
    dull, vivid = linear(64, 1), linear(64, 2)

    def model(x: Tensor) -> Tensor:
        return torch.where(x.std(1, keepdim=True) < 0.29, dull(x), vivid(x))

    found = judged(model, inputs(60, 64))
    assert "jumping-scores" in [flag.name for flag in found.flags]
    for net in (dull, vivid):
        assert judged(net, inputs(60, 64)).trusted


def test_only_scores_that_jump_at_one_place_are_said_to_jump() -> None:
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)

    def of(score: Callable[[Tensor], Tensor]) -> Tensor:
        return largest_jump(lambda z: torch.stack([5 + 0 * z[:, 0], score(z[:, 0])], 1), x, y, x + 1)

    steep, many = of(lambda s: torch.sigmoid(100 * (s - 0.3))), of(lambda s: (50 * s).round() / 50)
    assert steep.max() < 0.01
    assert many.max() < 0.03
    assert torch.allclose(of(lambda s: 2 * s + 3.0 * (s > 0.3)), torch.tensor(0.6, dtype=torch.float64), atol=0.01)
    assert jump_flag(steep) is None
    assert jump_flag(torch.tensor([0.0, 0.6])) is None  # once is chance
    flag = jump_flag(torch.tensor([0.6, 0.6]))
    assert flag is not None
    assert "60 % of all their change" in flag.evidence


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_networks_do_not_jump(dtype: torch.dtype) -> None:
    """Within a grey level, too, where in bfloat16 there is little left but rounding."""
    split, model = load_data("mnist").test.take(32), load_model("zoo:mnist-linf-0.3").to(dtype)
    x, y = split.images(), split.targets
    for eps in (0.3, 1 / 255):
        shares = largest_jump(lambda z: model(z.to(dtype)), x, y, Linf(eps).random_start(x, rng()))
        assert shares.max() < 0.08


@pytest.mark.parametrize("name", ["mnist-standard", "mnist-linf-0.3", "cifar10-standard", "cifar10-linf-4"])
def test_trained_networks_have_no_steps(name: str) -> None:
    """Far from the limits: an honest network must not be called a decoy."""
    data = zoo_card(name).data
    split = (load_cifar10_sample() if data == "cifar10" else load_data(data)).test.take(32)
    x, y = split.images(), split.targets
    other = (y != y[:, None]).int().argmax(1)  # the first image of another class
    ratios = steepness(load_model(f"zoo:{name}"), x, y, x[other])
    assert (ratios > 0).sum() > 16
    assert ratios[ratios > 0].median() < 7
    assert ratios.max() < 100


def test_infinite_logits_leave_nothing_unsaid() -> None:
    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1).sum(1, keepdim=True)
            return torch.cat([z, torch.where(z > 0.5, torch.inf, -z)], 1)

    x, y = torch.full((8, 1, 2, 2), 0.1245), torch.zeros(8, dtype=torch.long)
    found = slopes(Far(), x, y, (x, x + 0.01), Linf(0.2))
    assert found.unsaid < 0.01


@pytest.mark.parametrize(("sign", "true"), [(1, True), (-1, False)])
def test_a_threshold_where_attacks_end_is_no_wrong_gradient(sign: int, true: bool) -> None:
    """Networks that are trained within a radius learn it as a threshold; a gradient turned round stays wrong."""

    def model(z: Tensor) -> Tensor:
        score = (0.1 * z + torch.relu(z - 0.8)).sum(1)
        score = sign * score + (1 - sign) * score.detach()  # of the same value, whatever its sign
        return torch.stack([0 * score, score], 1)

    x, y, threat = torch.full((16, 40), 0.5), torch.zeros(16, dtype=torch.long), Linf(0.3)
    found = slopes(model, x, y, (x + 0.3, threat.random_start(x, rng())), threat)
    assert found.agrees.all() == true
    assert ("wrong-gradients" in {flag.name for flag in gradient_flags(found)}) != true


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("threat", "short"), [(Linf(0.1), 0.02), (L2(0.5), 0.05)])
def test_behind_a_linear_network_each_pixel_finds_its_best_value(threat: Threat, short: float, seed: int) -> None:
    """What is best is bounded by Lagrange's function, whatever the price of a step; in a cube steps cost nothing."""
    rng = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(2, 60, generator=rng), torch.rand(5, 60, generator=rng)

    def seen(z: Tensor) -> Tensor:
        return z + 0.05 * torch.sin(60 * z)

    def model(z: Tensor) -> Tensor:
        return seen(z) @ weight.T

    y = torch.zeros(5, dtype=torch.long)
    values = torch.stack([(x + a * threat.eps).clamp(0, 1) for a in torch.linspace(-1, 1, 2001)])
    gains, costs = (seen(values) - seen(x)) * (weight[1] - weight[0]), (values - x).square()
    prices = [0.0] if threat.separable else torch.logspace(-2, 2, 200).tolist()
    best = torch.stack([(gains - a * costs).amax(0).sum(1) + a * threat.eps**2 for a in prices]).amin(0)
    z = CoordinateAscent(threat, points=81, rounds=1 if threat.separable else 3, surrogate=model)(model, x, y, rng)
    assert threat.contains(z, x).all()
    reached, start = (model(each)[:, 1] - model(each)[:, 0] for each in (z, x))
    assert (reached - start <= best + 1e-4).all()
    assert (reached - start >= (1 - short) * best).all()


class Spectrum(nn.Module):
    """Honest, and hard to attack: the logarithm of a magnitude has a steep slope wherever a frequency is faint."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(65, 48), nn.ReLU(), nn.Linear(48, 5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((torch.fft.rfft(x).abs() + 0.1).log())
        return logits


def test_on_rough_ground_attacks_go_on() -> None:
    """25 steps end at 57 of 60; what longer ones do not break has no other witness than they."""
    draws, time = torch.Generator().manual_seed(0), torch.linspace(0, 1, 128)
    y = torch.randint(5, (1200,), generator=draws)
    phase = 6.28 * torch.rand(len(y), 1, generator=draws)
    tone = torch.sin(6.28 * (3 + 2 * y[:, None]) * time + phase)
    x = (tone + 0.4 * torch.randn(tone.shape, generator=draws)).clamp(-3, 3)
    torch.manual_seed(0)
    model = fitted_to(Spectrum(), x[60:], y[60:])
    ev = evaluate(model, (x[:60], y[:60]), Linf(0.1, (-3.0, 3.0)), "quick")
    assert ev.by_attack["apgd-t"].rate >= 0.9, ev
    assert ev.robust.rate <= 0.75, ev
    assert "not-converged" in {flag.name for flag in ev.flags}


def fitted_to(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    optimiser, rng = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(1)
    for _ in range(250):
        index = torch.randint(len(x), (128,), generator=rng)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[index]), y[index]).backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


class Failing(nn.Module):
    """From its hundredth call on it raises an error; its answers are steps, so that attacks of all kinds are tried."""

    calls = 0

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error = linear(), error

    def forward(self, x: Tensor) -> Tensor:
        Failing.calls += 1
        if Failing.calls >= 100:
            raise self.error
        logits: Tensor = (self.net(x) * 20).round() / 20
        return logits


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("no more"), MemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), RuntimeError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (ValueError("compiled for at most 64 images"), InputError),
    ],
)
def test_a_model_that_fails_ends_the_evaluation(
    error: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence; want of memory as what it is: it is no reason to go on without the attack that it befell."""
    monkeypatch.setattr(Failing, "calls", 0)
    with pytest.raises(told, match=str(error)):
        judged(Failing(error), inputs(20))
