"""`evaluate`: its contract, laws of its figures, and what it answers to bad input."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nofreelunch as nfl
from deceptive.brief import BRIEF, EPS, THREAT, examples
from deceptive.honest import convolutional, digits, linear, robust, standard
from nofreelunch.attacks import Attack, ExactLinear, WorstOf, fgsm, misclassified
from nofreelunch.attacks.abreast import abreast
from nofreelunch.data import Split
from nofreelunch.errors import InputError, RunError
from nofreelunch.evaluation import Evaluation, evaluate, foreign, operations, sweep
from nofreelunch.evaluation.interval_bounds import certify
from nofreelunch.evaluation.operations import is_affine
from nofreelunch.evaluation.remedies.bpda import bpda
from nofreelunch.evaluation.remedies.surrogate_pgd import SurrogatePGD
from nofreelunch.evaluation.source import batches, source_of
from nofreelunch.evaluation.subject import Subject, own_randomness
from nofreelunch.models import precision
from nofreelunch.models.copying import copy_of, modules_of
from nofreelunch.models.declared import Outputs
from nofreelunch.threats import Linf, Threat
from nofreelunch.types import Model

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def ev() -> Evaluation:
    """Of the robust network; made before any test, with its shapes and types checked."""
    return evaluate(robust(), examples(), THREAT, BRIEF, keep_examples=True)


@cache
def of_the_standard_network() -> Evaluation:
    return evaluate(standard(), examples(), THREAT, BRIEF, keep_examples=True)


def test_the_examples_kept_prove_the_figure(ev: Evaluation) -> None:
    x, y = examples()
    assert ev.x_adv is not None
    assert ev.x_adv.dtype == torch.float32
    assert ((ev.x_adv.double() - x.double()).abs().flatten(1).amax(1) <= THREAT.eps).all()
    assert ((ev.x_adv >= 0) & (ev.x_adv <= 1)).all()
    right = ~misclassified(robust()(ev.x_adv), y)
    assert int(right.sum()) == ev.robust.correct
    assert [step == "" for step in ev.broken_by] == right.tolist()
    logits = robust()(ev.x_adv).double()
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    assert torch.allclose(others - logits.gather(1, y[:, None])[:, 0], torch.from_numpy(ev.margin).double(), atol=1e-4)
    wrong = torch.tensor([step == "clean" for step in ev.broken_by])
    assert torch.equal(ev.x_adv[wrong], x[wrong])


def test_the_figures_add_up(ev: Evaluation) -> None:
    assert ev.clean.total == ev.robust.total == len(ev.broken_by) == 40
    assert ev.clean.correct == ev.by_attack["clean"].correct
    assert list(ev.by_attack.values())[-1].correct == ev.robust.correct
    assert sum(ev.adds.values()) == 40 - ev.robust.correct
    for whole, parts in ((ev.clean, ev.clean_by_class), (ev.robust, ev.robust_by_class)):
        assert sum(tally.correct for tally in parts.values()) == whole.correct
        assert sum(tally.total for tally in parts.values()) == whole.total
    assert ev.robust.correct <= ev.clean.correct
    assert ev.certified is not None
    assert ev.certified.correct <= ev.robust.correct
    assert "at most" in str(ev)


def test_the_result_is_json_and_complete(ev: Evaluation, tmp_path: Path) -> None:
    ev.save(tmp_path / "evaluation.json")
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["threat"] == {"norm": "linf", "eps": 0.06, "box": [0.0, 1.0]}
    assert record["verdict"] == "trusted"
    assert not [note for note in ev.notes if note.startswith("not tried")]
    assert record["robust"] == {"correct": ev.robust.correct, "total": 40}
    assert record["robust_interval"] == list(ev.robust.interval(0.95))
    for name in ("versions", "data_digest", "weights_digest", "seed", "protocol", "broken_by", "margin", "flags"):
        assert name in record


def run(model: object, x: Tensor, y: Tensor, **settings: object) -> Evaluation:
    return evaluate(model, (x, y), THREAT, BRIEF, **settings)  # type: ignore[arg-type]


def test_the_seed_and_nothing_else_decides() -> None:
    (x, y), plain = examples(), of_the_standard_network()
    torch.manual_seed(99)
    torch.rand(3)
    again = run(standard(), x, y, keep_examples=True)
    other = run(standard(), x, y, keep_examples=True, seed=1)
    assert torch.equal(plain.x_adv, again.x_adv)
    assert plain == again
    assert not torch.equal(plain.x_adv, other.x_adv)


def test_batches_and_order_do_not_matter() -> None:
    x, y = (part[:8] for part in examples())
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    plain = run(robust(), x, y, batch_size=8)
    assert len(set(plain.broken_by)) > 2
    assert run(robust(), x, y, batch_size=2).broken_by == plain.broken_by
    shuffled = run(robust(), x[order], y[order], batch_size=5)
    assert [plain.broken_by[i] for i in order] == list(shuffled.broken_by)
    assert np.allclose(plain.margin[order.numpy()], shuffled.margin, atol=1e-3)
    part = run(robust(), x[4:], y[4:], batch_size=7)
    assert plain.broken_by[4:] == part.broken_by


def test_relabelled_classes_permute_the_result() -> None:
    x, y = examples()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    net, renamed = linear(), copy_of(linear())
    renamed[-1].weight.data[order], renamed[-1].bias.data[order] = net[-1].weight.data, net[-1].bias.data
    assert run(net, x, y).broken_by == run(renamed, x, order[y]).broken_by


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_logits_changes_no_verdict(scale: float) -> None:
    plain = of_the_standard_network()
    scaled = run(lambda z: standard()(z) * scale + 5 * scale, *examples())
    assert [step != "" for step in scaled.broken_by] == [step != "" for step in plain.broken_by]
    assert scaled.trusted, scaled


def test_a_linear_model_is_answered_exactly() -> None:
    x, y = examples()
    for threat in (THREAT, nfl.L2(0.5)):
        ev = evaluate(linear(), (x, y), threat, BRIEF)
        z = ExactLinear(threat)(linear(), x, y, torch.Generator())
        assert ev.exact
        assert list(ev.by_attack) == ["clean", "exact-linear"]
        assert ev.robust.rate == 1 - misclassified(linear()(z), y).double().mean().item()
    nearly = nn.Sequential(linear(), nn.Hardtanh(-1e4, 1e4))
    assert not evaluate(nearly, (x, y), THREAT, BRIEF).exact


class Underflowing(nn.Module):
    """Affine to look at; in numbers it knows eight levels of grey."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * 1e-22 * 1e-22 * 1e22 * 1e22)


class Stepped(Underflowing):
    """It divides, and rounds on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.div(x, 0.25, rounding_mode="floor"))


def test_what_only_looks_affine_is_attacked_and_nothing_else_is_listed() -> None:
    assert not is_affine(Stepped())
    x, y = examples()
    ev = evaluate(Underflowing(), (x, y), THREAT, BRIEF)
    assert not ev.exact
    assert "exact-linear" not in ev.by_attack


def test_a_planted_example_is_found() -> None:
    """A sharp spike in one logit, somewhere in the ball of an example that is safe otherwise."""

    class Planted(nn.Module):
        def __init__(self, at: Tensor, label: int) -> None:
            super().__init__()
            self.at, self.label, self.net = at, label, robust()

        def forward(self, x: Tensor) -> Tensor:
            spike = (1.5 - (x - self.at).abs().flatten(1).mean(1) / 0.02).clamp(min=0) * 100
            return self.net(x) + spike[:, None] * nn.functional.one_hot(torch.tensor(self.label), 10)

    x, y = examples()
    threat, found = nfl.Linf(0.04), 0
    for i in range(10):
        z = threat.random_start(x[i : i + 1], torch.Generator().manual_seed(i))
        model = Planted(z, int(y[i] + 1) % 10)
        ev = evaluate(model, (x[i : i + 1], y[i : i + 1]), threat, BRIEF)
        found += ev.robust.correct == 0
    assert found == 10


def test_no_radius_means_no_change() -> None:
    x, y = examples()
    ev = evaluate(robust(), (x, y), nfl.Linf(0.0), BRIEF, keep_examples=True)
    assert ev.robust == ev.clean
    assert ev.exact
    assert torch.equal(ev.x_adv, x)


def test_a_mean_over_draws_is_never_exact() -> None:
    class Noisy(Underflowing):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.3 * torch.randn_like(x))

    ev = evaluate(Noisy(), examples(), nfl.Linf(0.0), BRIEF)
    assert "randomised" in {flag.name for flag in ev.flags}
    assert not ev.exact


def test_examples_outside_the_ball_are_dropped_and_counted(ev: Evaluation) -> None:
    x, y = examples()

    def cheat(model: object, x: Tensor, y: Tensor, rng: object) -> Tensor:
        return torch.rand(x.shape)

    def broken(model: object, x: Tensor, y: Tensor, rng: object) -> Tensor:
        return torch.full_like(x, torch.nan)

    both = run(robust(), x, y, attacks={"cheat": cheat, "broken": broken})
    assert both.robust == ev.robust
    assert both.dropped == ev.dropped + 2 * ev.robust.correct


def test_further_attacks_count() -> None:
    x, y = examples()

    def known(model: object, x: Tensor, y: Tensor, rng: object) -> Tensor:
        return (x + THREAT.eps * 0.99).clamp(0, 1)

    def lamp(z: Tensor) -> Tensor:
        """Blind to everything but whether the darkest pixel has been lit, which no gradient tells."""
        lit = z.detach().flatten(1).amin(1) > 0.05
        return torch.where(lit[:, None], robust()(z).flip(1), robust()(z))

    ev = run(lamp, x, y, attacks={"known": known})
    assert ev.robust.rate <= run(lamp, x, y).robust.rate
    assert ev.by_attack["known"].rate < 0.3


def test_a_split_is_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(train=False)
    split, asked = Split((x * 255).round().byte(), y, tuple(range(10))), []
    images = Split.images

    def watched(self: Split, index: Tensor | slice = slice(None)) -> Tensor:
        asked.append(len(index) if isinstance(index, Tensor) else len(self))
        return images(self, index)

    expected = evaluate(linear(), (x, y), THREAT, BRIEF)
    monkeypatch.setattr(Split, "images", watched)
    monkeypatch.setattr("nofreelunch.evaluation.source._CHUNK", 20 * 196)
    ev = evaluate(linear(), split, THREAT, BRIEF, batch_size=16)
    assert max(asked) <= 64
    assert ev.broken_by == expected.broken_by


class Stop(BaseException):
    """An interrupt."""


def stops_after(count: int) -> Iterator[None]:
    yield from [None] * count
    raise Stop


def of_attacks(say: Callable[[], object]) -> Callable[[str, int, int], object]:
    """Progress, but of checks: those that were stopped are made from the beginning."""
    return lambda step, done, total: None if step.startswith("checks") else say()


@cache
def not_stopped() -> tuple[Evaluation, int]:
    """An evaluation of two batches, and how often it told its progress."""
    steps: list[None] = []
    settings = {"batch_size": 13, "keep_examples": True, "progress": of_attacks(lambda: steps.append(None))}
    return run(convolutional(), *in_two_batches(), **settings), len(steps)


def in_two_batches() -> tuple[Tensor, Tensor]:
    x, y = examples()
    return x[:26], y[:26]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_stopped_evaluation_goes_on(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, steps = not_stopped()
    monkeypatch.setattr("nofreelunch.evaluation.journal._EVERY", 0.0)
    x, y = in_two_batches()
    ticks, seen = stops_after(count), []
    settings = {"batch_size": 13, "out": tmp_path, "keep_examples": True}
    with pytest.raises(Stop):
        run(convolutional(), x, y, **settings, progress=of_attacks(lambda: next(ticks)))
    resumed = run(convolutional(), x, y, **settings, progress=of_attacks(lambda: seen.append(None)))
    assert resumed == expected
    assert torch.equal(resumed.x_adv, expected.x_adv)
    assert np.array_equal(resumed.margin, expected.margin)
    assert len(seen) == steps - count - 1  # the batch at whose end it was stopped is kept
    with pytest.raises(InputError, match=r"seed was 0, now 1.*another folder"):
        run(convolutional(), x, y, out=tmp_path, seed=1)
    state = tmp_path / "evaluation.state.npz"
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        run(convolutional(), x, y, out=tmp_path)


@pytest.mark.parametrize("check", ["bpda", "RayS", "more steps"])
def test_an_evaluation_that_was_stopped_in_a_check_goes_on(check: str, tmp_path: Path) -> None:
    x, y = in_two_batches()

    def stop(step: str, done: int, total: int) -> None:
        if step == f"checks, {check}":
            raise Stop

    with pytest.raises(Stop):
        run(convolutional(), x, y, batch_size=13, out=tmp_path, keep_examples=True, progress=stop)
    assert run(convolutional(), x, y, batch_size=13, out=tmp_path, keep_examples=True) == not_stopped()[0]


def test_a_stopped_evaluation_of_a_random_model_goes_on_with_the_same_draws(tmp_path: Path) -> None:
    x, y = (part[:12] for part in examples())
    model, ticks = nn.Sequential(standard(), AlwaysDropping()), stops_after(5)
    expected = run(model, x, y, batch_size=5)
    with pytest.raises(Stop):
        run(model, x, y, batch_size=5, out=tmp_path, progress=lambda *_: next(ticks))
    resumed = run(model, x, y, batch_size=5, out=tmp_path)
    assert "randomised" in {flag.name for flag in resumed.flags}
    assert resumed == expected
    assert np.array_equal(resumed.margin, expected.margin)


def test_what_an_older_format_has_kept_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (part[:8] for part in examples())
    monkeypatch.setattr(import_module("nofreelunch.evaluation.evaluate"), "_FORMAT", "1")
    run(linear(), x, y, out=tmp_path)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"is of another evaluation: format .*; delete it or give another folder"):
        run(linear(), x, y, out=tmp_path)


def test_where_nothing_stands_no_remedy_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[object] = []
    monkeypatch.setattr("nofreelunch.evaluation.trial.switches", lambda *given: sought.append(given) or [])
    found = evaluate(standard(), examples(), Linf(0.5), BRIEF)
    assert found.robust.correct == 0
    assert not sought


class AlwaysDropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.usefixtures("no_remedies")
def test_a_sweep_never_rises() -> None:
    x, y = examples()
    found = sweep(robust(), (x, y), [nfl.Linf(eps) for eps in (0.1, 0.03, 0.06)], BRIEF)
    radii, rates = zip(*found.curve(), strict=True)
    assert radii == (0.0, 0.03, 0.06, 0.1)
    assert list(rates) == sorted(rates, reverse=True)
    for evaluation in found.evaluations:
        lost = found.distance <= evaluation.threat.eps
        assert int((~lost).sum()) == evaluation.robust.correct
    with pytest.raises(InputError, match="one norm"):
        sweep(robust(), (x, y), [nfl.Linf(0.1), nfl.L2(0.1)], BRIEF)
    with pytest.raises(InputError, match="smaller radius"):
        evaluate(robust(), (x, y), THREAT, BRIEF, known=found.evaluations[2])


@pytest.mark.usefixtures("no_remedies")
@pytest.mark.parametrize("build", [standard, convolutional, robust, linear])
@pytest.mark.parametrize("threat", [nfl.Linf(0.01), nfl.L2(0.01)])
def test_what_is_certified_cannot_be_broken(build: object, threat: Threat) -> None:
    x, y = examples()
    proven = certify(build(), x, y, threat)  # type: ignore[operator]
    ev = evaluate(build(), (x, y), threat, BRIEF)  # type: ignore[operator]
    assert proven is not None
    assert proven.any()
    assert all(step == "" for step, safe in zip(ev.broken_by, proven.tolist(), strict=True) if safe)


class Normalised(nn.Module):
    """As most people write it: the network is the other one, if its pixels are moved back first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(0.1307).view(1, 1, 1))
        self.register_buffer("std", torch.tensor(-0.3081).view(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(((x - self.mean) / self.std) * self.std + self.mean)


def test_a_normalisation_of_one_s_own_and_labels_are_certified_as_well() -> None:
    x, y = examples()
    wrapped, named = Normalised(robust()), nn.Sequential(robust(), Outputs(tuple(range(10))))
    alone = certify(robust(), x, y, nfl.Linf(0.01))
    assert alone is not None
    for model in (wrapped, named):
        proven = certify(model, x, y, nfl.Linf(0.01))
        assert proven is not None
        assert (alone >= proven).all()
        assert proven.sum() > alone.sum() / 2  # intervals do not know that labels and logits hang together
    assert certify(Squared(), x, y, nfl.Linf(0.01)) is None
    lost = certify(Lost(robust()), x, y, nfl.Linf(0.01))
    assert lost is not None
    assert not lost.any()


class Lost(Normalised):
    """In float32 little or nothing of the image is left."""

    def __init__(self, net: nn.Module, size: float = 1e9) -> None:
        super().__init__(net)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x + self.size) - self.size)


class WithAFactor(Normalised):
    """The old way to write a multiple, and weights the first of which is no weight."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(nn.Module())
        self.version = nn.Parameter(torch.tensor(3), requires_grad=False)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.add(x, 0.5, alpha=0) if torch.is_grad_enabled() else torch.add(x, 0, x))


def test_operations_of_another_form_end_without_a_certificate_and_without_an_error() -> None:
    x, y = examples()
    assert certify(WithAFactor(robust()), x, y, nfl.Linf(0.01)) is None
    assert evaluate(WithAFactor(robust()), (x, y), nfl.Linf(0.01), BRIEF).certified is None


def test_what_is_right_at_the_image_alone_is_not_certified_around_it() -> None:
    """In float32 the sum forgets all of an image but its zeros and ones."""
    x, y = examples()
    proven = certify(Lost(robust(), 2.0**21), x.round(), y, nfl.Linf(0.3))
    assert proven is not None
    assert not proven.any()


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x).flatten(1)[:, :10]


def test_no_certificate_covers_an_example_that_is_broken(ev: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though as many others stand: then what was bounded are not the operations of the model."""
    broken = next(row for row, step in enumerate(ev.broken_by) if step not in ("", "clean"))
    monkeypatch.setattr(operations, "certify", lambda model, x, y, threat: torch.arange(len(y)) == broken)
    again = evaluate(robust(), examples(), THREAT, BRIEF, batch_size=64)
    assert again.robust == ev.robust
    assert again.certified is None


def test_interval_bounds_of_a_linear_model_are_exact() -> None:
    x, y = examples()
    ev = evaluate(linear(), (x, y), THREAT, BRIEF)
    assert ev.certified == ev.robust
    assert certify(nn.Sequential(linear(), nn.Sigmoid()), x, y, THREAT) is None


@given(
    seed=st.integers(0, 99), classes=st.integers(2, 4), n=st.integers(1, 9), norm=st.sampled_from([nfl.Linf, nfl.L2])
)
@settings(max_examples=8, deadline=None)
def test_any_small_model_any_threat(seed: int, classes: int, n: int, norm: type[Threat]) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, classes)).double()
    x, y = torch.rand(n, 3, 2, 2), torch.randint(classes, (n,))
    threat = norm(0.3)
    ev = evaluate(model, (x, y), threat, BRIEF, keep_examples=True)
    assert threat.contains(ev.x_adv, x).all()
    assert ev.clean.correct == int((model(x.double()).argmax(1) == y).sum())
    assert ev.robust.correct == int((model(ev.x_adv.double()).argmax(1) == y).sum())
    if ev.clean.correct == 0:
        assert torch.equal(ev.x_adv, x)


X, Y = torch.rand(4, 1, 14, 14), torch.arange(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X * 255}, "divide by 255"),
        ({"x": X * 2 - 1}, "normalise inside the model"),
        ({"x": (X * 9).long()}, "int64"),
        ({"x": X.clone().index_fill_(0, torch.tensor([2]), torch.nan)}, "example 2 holds NaN"),
        ({"y": Y + 7}, r"label 10 seen, but the model has 10 outputs"),
        ({"y": torch.tensor([0, 1, 2, -100])}, "label -100 seen"),
        ({"y": Y.float()}, "integers"),
        ({"y": nn.functional.one_hot(Y).float()}, r"argmax\(1\)"),
        ({"y": Y[:3]}, "4 examples and y 3 labels"),
        ({"x": X[:0], "y": Y[:0]}, "nothing to evaluate"),
        ({"x": X[:, :, :7]}, "the model cannot take x of shape"),
        ({"model": lambda z: z.flatten(1)[:, :1]}, "at least 2 logits, got 1"),
        ({"model": lambda z: z.flatten(1)[:, 0]}, r"\[-z, z\]"),
        ({"model": lambda z: (z, z)}, "got tuple"),
        ({"model": nn.Linear}, "got the class Linear"),
        ({"model": "model.pt"}, "callable"),
        ({"model": None}, "callable"),
        ({"protocol": "standrad"}, 'did you mean "standard"'),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no type checker before the door
    given = {"model": linear(), "x": X, "y": Y, "protocol": BRIEF} | changes
    model, x, y = given.pop("model"), given.pop("x"), given.pop("y")
    with pytest.raises(InputError, match=message):
        evaluate(model, (x, y), THREAT, **given)  # type: ignore[arg-type]


def test_what_is_meant_is_done() -> None:
    x, y = (part[:12] for part in examples())
    plain = run(linear(), x, y)
    raw = run(linear(), (x * 255).round().byte(), y)
    assert raw.broken_by == plain.broken_by
    assert "dividing by 255" in raw.notes[0]
    assert run(linear(), x.double(), y.int()).broken_by == plain.broken_by
    with torch.no_grad():
        assert run(linear(), x, y).broken_by == plain.broken_by
    with torch.inference_mode():
        assert run(linear(), x, y).broken_by == plain.broken_by
    training = copy_of(convolutional()).train()
    assert "training mode" in run(training, x, y).notes[0]
    assert training.training


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    x, y = digits(train=False)
    x, y = x[y < classes][:30], y[y < classes][:30]
    net = standard()  # made here, not inside the model
    ev = evaluate(lambda z: net(z)[:, :classes], (x, y), nfl.Linf(0.15), BRIEF)
    assert ev.trusted, ev
    assert ev.robust.rate < ev.clean.rate


def test_a_copy_shares_nothing() -> None:
    memory = {"calls": [0]}
    net = linear()

    def function(x: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006
        memory["calls"][0] += 1
        seen.append(1)
        return net(x)

    copy = copy_of(function)
    copy(X)
    assert memory == {"calls": [0]}
    assert function.__defaults__ == ([],)
    assert modules_of(copy)[0] is not net
    assert modules_of(Subject(function).working) != []


def test_global_randomness_is_borrowed() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with own_randomness(3):
        first = torch.rand(2), np.random.rand()  # noqa: NPY002
    with own_randomness(3):
        assert torch.equal(first[0], torch.rand(2))
        assert first[1] == np.random.rand()  # noqa: NPY002
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_batches_hold_every_example_once_and_are_never_single() -> None:
    for n in range(1, 9):
        parts = list(batches(torch.arange(n), 3))
        assert set(torch.cat(parts).tolist()) == set(range(n))
        assert all(len(part) > 1 for part in parts)


def test_keys_belong_to_the_content() -> None:
    x, y = examples()
    a = source_of((x, y), linear(), THREAT)
    b = source_of((x.flip(0), y.flip(0)), linear(), THREAT)
    assert torch.equal(a.keys, b.keys.flip(0))
    assert a.digest != b.digest
    assert len(a.keys.unique()) == len(x)
    assert a.gridded(THREAT)
    assert not source_of((x * 0.9, y), linear(), THREAT).gridded(THREAT)


def test_two_models_alike_have_one_digest_wherever_their_parts_lie() -> None:
    """What a module holds may show its address when it is asked for its words."""

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = (object(), lambda x: x)

    assert Subject(Holding()).digest == Subject(Holding()).digest


def test_attacks_of_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    class FGSM:
        def __init__(self, model: nn.Module, eps: float) -> None:
            assert isinstance(model, nn.Module)
            self.model, self.eps = model, eps

        def __call__(self, x: Tensor, y: Tensor) -> Tensor:
            z = fgsm(nfl.Linf(self.eps))(self.model, x, y, torch.Generator())
            return torch.where(z == x, x, (x + self.eps * (z - x).sign()).clamp(0, 1))  # rounded, as libraries do it

    library = ModuleType("torchattacks")
    library.FGSM = FGSM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchattacks", library)
    x, y = examples()
    attack = foreign("torchattacks:FGSM", THREAT)
    z, ours = (tried(linear(), x, y, torch.Generator()) for tried in (attack, fgsm(THREAT)))
    assert torch.allclose(z, ours, rtol=0, atol=1e-5)
    assert not THREAT.contains(z, x).all()
    found = evaluate(standard(), (x, y), THREAT, BRIEF, attacks={"theirs": attack})
    assert (found.dropped, "theirs" in found.by_attack) == (0, True)
    library.Broken = lambda *_, **__: None  # type: ignore[attr-defined]
    with pytest.raises(InputError, match='attack "torchattacks:Broken" failed: TypeError'):
        foreign("torchattacks:Broken", THREAT)(linear(), x, y, torch.Generator())
    with pytest.raises(InputError, match='did you mean "FGSM"'):
        foreign("torchattacks:FGMS", THREAT)
    with pytest.raises(InputError, match="known: foolbox, torchattacks"):
        foreign("cleverhans:PGD", THREAT)
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(InputError, match="pip install foolbox"):
        foreign("foolbox:LinfPGD", THREAT)


def hooked() -> nn.Module:
    """A linear model that does not look like one: its answer is not exact, and attacks are run."""
    model = nn.Linear(4, 2)
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.usefixtures("no_remedies")
def test_an_attack_of_the_users_gets_a_generator_and_may_round() -> None:
    """A textbook attack does not project as exactly as ours; what rounding leads out is brought back."""
    seen: list[object] = []

    def textbook(model: Model, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        seen.append(rng)
        z = x + 2 * EPS * torch.randn(x.shape, generator=rng).sign()
        return (x + (z - x).clamp(-EPS, EPS)).clamp(0, 1)

    x, y = examples()
    z = textbook(robust(), x, y, torch.Generator().manual_seed(0))
    assert not THREAT.contains(z, x).all()
    found = evaluate(robust(), (x, y), THREAT, BRIEF, attacks={"textbook": textbook})
    assert found.dropped == 0
    assert len(seen) > 1
    assert all(isinstance(rng, torch.Generator) for rng in seen)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (lambda model, x, y, rng: x[:1], r'"mine" must return a tensor of shape \(20, 4\)'),
        (lambda model, x, y, rng: rng.nothing, '"mine" failed: AttributeError'),
        (lambda model, x, y: x, '"mine" failed: TypeError'),
    ],
)
def test_an_attack_of_the_users_that_fails_is_named(attack: Attack, said: str) -> None:
    model, x = hooked(), torch.rand(20, 4)
    with pytest.raises(InputError, match=said):
        evaluate(model, (x, model(x).argmax(1)), nfl.Linf(1e-6), BRIEF, attacks={"mine": attack})


def test_what_is_far_outside_does_not_count_and_is_told() -> None:
    model, x = hooked(), torch.rand(20, 4)
    y = model(x).argmax(1)
    found = evaluate(model, (x, y), nfl.Linf(1e-6), BRIEF, attacks={"mine": lambda model, x, y, rng: 1 - x})
    assert found.dropped == 20
    assert "20 points that attacks returned were outside and did not count" in str(found)


def _few() -> tuple[Tensor, Tensor]:
    x, y = examples()
    return x[:8], y[:8]


@pytest.mark.parametrize("products", ["highest", "medium"])
def test_float32_is_not_rounded_to_less_on_a_gpu(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "there_is_a_gpu", lambda: True)

    def now() -> tuple[bool, str]:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    seen, usual = set[tuple[bool, str]](), torch.get_float32_matmul_precision()

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(now())
            return super().forward(x)

    torch.set_float32_matmul_precision(products)
    try:
        before = now()
        evaluate(Watching(4, 2), (torch.rand(10, 4), torch.arange(10) % 2), Linf(0.0), BRIEF)
        assert seen == {(False, "highest")}
        assert before == now()
    finally:
        torch.set_float32_matmul_precision(usual)


def test_threads_wait_for_each_other() -> None:
    model, (x, y) = standard(), _few()
    alone = evaluate(model, (x, y), THREAT, BRIEF)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: evaluate(model, (x, y), THREAT, BRIEF), range(3)))
    assert {other.broken_by for other in found} == {alone.broken_by}
    assert torch.is_grad_enabled()


class _AsksWhetherAMaskIsFalse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = standard()

    def forward(self, x: Tensor) -> Tensor:
        bright = x > 0.5
        return self.net(torch.where(bright == False, x * 0, x.round()))  # noqa: E712 - as people write it


def test_masks_that_are_compared_with_truths_are_seen_through() -> None:
    model, x = _AsksWhetherAMaskIsFalse(), examples()[0].clone().requires_grad_()
    with bpda():
        (slope,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert slope.isfinite().all()
    assert slope.any()
    assert evaluate(model, _few(), THREAT, BRIEF).flags


def test_examples_that_cannot_be_kept_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*examples\.npy"):
        evaluate(standard(), _few(), THREAT, BRIEF, keep_examples=True, out=tmp_path / "file" / "folder")


def test_a_variable_that_is_not_assigned_yet_is_no_part_of_a_model() -> None:
    def made(log: bool = False) -> Callable[[Tensor], Tensor]:
        if log:
            told: list[Tensor] = []

        def model(x: Tensor) -> Tensor:
            logits: Tensor = robust()(x)
            if log:
                told.append(logits)
            return logits

        return model

    found = evaluate(made(), examples(), THREAT, BRIEF)
    assert found.robust == evaluate(robust(), examples(), THREAT, BRIEF).robust


def test_an_attack_s_own_mistake_is_not_said_to_be_the_model_s() -> None:
    x, y = examples()
    attack = nfl.PGD(THREAT, loss=lambda logits, y: logits.foo())  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="foo"):
        attack(robust(), x, y, torch.Generator().manual_seed(0))


def test_attacks_towards_a_class_run_beside_each_other_alone() -> None:
    (x, y), rng = examples(), torch.Generator().manual_seed(0)
    one_by_one = [SurrogatePGD(THREAT, 5, surrogate=robust(), target_rank=rank) for rank in (1, 0, 2)]
    z = abreast(one_by_one, 1000)(robust(), x, y, rng)
    assert torch.equal(z, WorstOf(tuple(one_by_one))(robust(), x, y, torch.Generator().manual_seed(0)))


def test_the_same_numbers_in_another_shape_are_other_data() -> None:
    x, y = examples()
    shapes = (source_of((images, y), linear(), THREAT).digest for images in (x, x.flatten(1)))
    assert len(set(shapes)) == 2
