"""What every attack promises, whatever the norm, the shape, the number of classes, the layout and the precision."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nofreelunch.attacks import (
    APGD,
    ATTACKS,
    FAB,
    PGD,
    Attack,
    EachTarget,
    Square,
    WorstOf,
    attack,
    fgsm,
    misclassified,
    restarts,
    targeted,
)
from nofreelunch.attacks.abreast import Abreast, abreast
from nofreelunch.attacks.eot import Averaged
from nofreelunch.errors import InputError
from nofreelunch.models.fast import Fast, fast
from nofreelunch.rng import Streams
from nofreelunch.threats import L2, THREATS, Linf, Threat

SMALL = {
    "fgsm": fgsm,
    "pgd": lambda threat: PGD(threat, steps=2),
    "pgd-margin": lambda threat: PGD(threat, steps=2, loss="margin", random_start=False),
    "restarts": lambda threat: restarts(PGD(threat, steps=1), 2),
    "apgd-ce": lambda threat: APGD(threat, steps=4),
    "apgd-dlr": lambda threat: APGD(threat, steps=2, loss="dlr"),
    "apgd-t": lambda threat: EachTarget(APGD(threat, steps=2, loss="dlr-targeted"), 2),
    "fab-t": lambda threat: EachTarget(FAB(threat, steps=2), 2),
    "square": lambda threat: Square(threat, steps=4),
    "apgd-patient": lambda threat: APGD(threat, steps=8, patience=0.3),
    "square-patient": lambda threat: Square(threat, steps=12, patience=1),
    "fab-reach": lambda threat: FAB(threat, steps=8, reach=1.1),
    "abreast": lambda threat: Abreast(threat, (Square(threat, steps=3),) * 3, rows=8),
    "worst-of": lambda threat: WorstOf((fgsm(threat), Square(threat, steps=2))),
}
"""The attacks of every recipe, with budgets for tests."""

SHAPES = [(7,), (1, 28, 28), (3, 32, 32)]
CLASSES = [2, 3, 4, 9, 10, 100]

every_attack = pytest.mark.parametrize("name", SMALL)
every_threat = pytest.mark.parametrize("make", THREATS.values(), ids=THREATS.keys())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(shape: tuple[int, ...], k: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    """A small network with a batch-norm and a dropout, whose layers are in different modes."""
    torch.manual_seed(seed)
    first = nn.Conv2d(shape[0], 2, 3, stride=4) if len(shape) == 3 else nn.Linear(shape[0], 5)
    norm = nn.BatchNorm2d(2) if len(shape) == 3 else nn.BatchNorm1d(5)
    body = nn.Sequential(first, norm, nn.LeakyReLU(), nn.Flatten(), nn.Dropout(0.5))
    width = body.eval()(torch.zeros(1, *shape)).shape[1]
    model = nn.Sequential(body, nn.Linear(width, k)).eval()
    with torch.no_grad():  # every class is the answer somewhere, and no answer is far from another
        logits = model(images(64, shape, seed=99))
        model[1].weight /= logits.std(0)[:, None]
        model[1].bias.copy_((model[1].bias - logits.mean(0)) / logits.std(0))
    model.to(dtype).train()
    body[1].eval()
    return model


def images(n: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.rand(n, *shape, generator=rng(seed), dtype=dtype)
    return (x * 1.4 - 0.2).clamp(0, 1)


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        logits = model(x)
    for module, mode in modes:
        module.training = mode
    return logits.argmax(1)


def half_wide(make: type[Threat], shape: tuple[int, ...]) -> Threat:
    """A radius at which some examples break and some do not."""
    return make(0.03 if make is Linf else 0.015 * math.sqrt(math.prod(shape)))


def snapshot(model: nn.Module) -> list[object]:
    tensors = [*model.parameters(), *model.buffers()]
    return [
        *(tensor.detach().clone().numpy().tobytes() for tensor in tensors),
        *(parameter.grad for parameter in model.parameters()),
        *(parameter.requires_grad for parameter in model.parameters()),
        *(module.training for module in model.modules()),
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_threat
@every_attack
def test_contract(name, make, shape):
    for k, dtype, layout in cases(shape):
        model, x = network(shape, k, dtype), images(4, shape, dtype).contiguous(memory_format=layout)
        y = predictions(model, x)
        y[0] = (y[0] + 1) % k
        keeps_its_promises(SMALL[name](half_wide(make, shape)), half_wide(make, shape), model, x, y)


def cases(shape: tuple[int, ...]) -> list[tuple[int, torch.dtype, torch.memory_format]]:
    """Few or many classes, either precision, either layout: each with each of the others, not all with all."""
    few, many, plain = CLASSES[0], CLASSES[4], torch.contiguous_format
    if len(shape) == 1:
        return [(k, torch.float32, plain) for k in CLASSES] + [(k, torch.float64, plain) for k in (few, many)]
    return [
        (few, torch.float32, plain),
        (few, torch.float64, torch.channels_last),
        (many, torch.float32, torch.channels_last),
        (many, torch.float64, plain),
    ]


def keeps_its_promises(attack: Attack, threat: Threat, model: nn.Module, x: Tensor, y: Tensor) -> None:
    before, world, inputs = snapshot(model), torch.get_rng_state(), (x.clone(), y.clone())
    z = attack(model, x, y, rng(1))
    assert snapshot(model) == before, "the model was changed"
    assert torch.equal(torch.get_rng_state(), world), "the global random state was changed"
    assert torch.equal(x, inputs[0]), "the inputs were changed"
    assert torch.equal(y, inputs[1]), "the labels were changed"
    assert (z.shape, z.dtype, z.device, z.stride()) == (x.shape, x.dtype, x.device, x.stride())
    assert not z.requires_grad
    assert threat.contains(z, x).all()
    assert torch.equal(z[0], x[0]), "a misclassified example was changed"
    assert (predictions(model, z) == y).sum() <= (predictions(model, x) == y).sum()


@every_threat
@every_attack
def test_batch_of_one_and_empty_batch(name, make):
    model, x = network((7,), 4), images(3, (7,))
    y = predictions(model, x)
    adversary = SMALL[name](make(0.1))
    assert adversary(model, x[:1], y[:1], rng()).shape == (1, 7)
    assert adversary(model, x[:0], y[:0], rng()).shape == (0, 7)


@every_threat
@every_attack
def test_radius_zero_returns_the_inputs_bit_for_bit(name, make):
    model, x = network((1, 28, 28), 4), images(3, (1, 28, 28))
    assert torch.equal(SMALL[name](make(0.0))(model, x, predictions(model, x), rng()), x)


@every_attack
def test_radius_one_reaches_every_image(name):
    model, x = network((1, 28, 28), 4), images(6, (1, 28, 28))
    y = predictions(model, x)
    z = SMALL[name](Linf(1.0))(model, x, y, rng())
    assert ((z >= 0) & (z <= 1)).all()
    if name not in ("fgsm", "pgd-margin", "square", "fab-t"):  # too few steps for a whole journey
        assert (predictions(model, z) == y).float().mean() <= y.bincount().max() / len(y)


@every_threat
@every_attack
def test_an_example_s_answer_does_not_depend_on_the_batch(name, make):
    """Split, permuted or thinned out, each example keeps its stream and its answer."""
    model, x = network((1, 28, 28), 4, torch.float64), images(9, (1, 28, 28), torch.float64)
    y, adversary = predictions(model, x), SMALL[name](half_wide(make, (1, 28, 28)))
    streams = Streams.for_examples(5, torch.arange(9))
    whole = adversary(model, x, y, streams)
    for part in [torch.arange(9).flip(0), torch.tensor([4]), torch.tensor([8, 1, 3]), torch.arange(0, 9, 2)]:
        z = adversary(model, x[part], y[part], streams.take(part))
        torch.testing.assert_close(z, whole[part], rtol=0, atol=1e-6)
        assert torch.equal(predictions(model, z) == y[part], (predictions(model, whole) == y)[part])


@every_threat
@every_attack
def test_the_same_seed_gives_the_same_answer(name, make):
    model, x = network((3, 32, 32), 4), images(4, (3, 32, 32))
    y, adversary = predictions(model, x), SMALL[name](make(0.01))
    assert torch.equal(adversary(model, x, y, rng(1)), adversary(model, x, y, rng(1)))


@every_threat
@pytest.mark.parametrize("name", ["pgd", "restarts", "apgd-ce", "square"])
def test_another_seed_gives_another_answer(name, make):
    model, x = network((1, 28, 28), 4), images(4, (1, 28, 28))
    y, adversary = predictions(model, x), SMALL[name](make(0.01))
    assert not torch.equal(adversary(model, x, y, rng(0)), adversary(model, x, y, rng(1)))


@every_threat
@every_attack
@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_callers_may_have_switched_gradients_off_or_autocast_on(name, make, context):
    model, x = network((7,), 4), images(5, (7,))
    y, adversary = predictions(model, x), SMALL[name](make(0.1))
    plain = adversary(model, x, y, rng())
    with context():
        there = adversary(model, x.clone(), y.clone(), rng())
    assert torch.equal(there, plain)


@every_attack
def test_frozen_parameters_and_another_precision_are_no_obstacle(name):
    model, x = network((7,), 4).requires_grad_(False), images(5, (7,), torch.float64)
    y = predictions(model, x.float())
    z = SMALL[name](Linf(0.1))(model, x, y, rng())
    assert z.dtype == torch.float64
    assert Linf(0.1).contains(z, x).all()


@every_attack
def test_integer_labels_of_any_width(name):
    model, x = network((7,), 4), images(5, (7,))
    y, adversary = predictions(model, x), SMALL[name](Linf(0.1))
    assert torch.equal(adversary(model, x, y.to(torch.uint8), rng()), adversary(model, x, y, rng()))


class Bad(torch.autograd.Function):
    """Logits as they are, gradients replaced by one value."""

    @staticmethod
    def forward(ctx, logits, value):
        ctx.value = value
        return logits.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, ctx.value), None


@pytest.mark.usefixtures("unchecked")
@every_threat
@every_attack
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf, 1e-45])
def test_hopeless_gradients_never_make_bad_images(name, make, value):
    model, x = network((7,), 4), images(5, (7,))
    y = predictions(model, x)
    z = SMALL[name](make(0.2))(
        nn.Sequential(nn.Identity(), Wrap(model, lambda logits: Bad.apply(logits, value))), x, y, rng()
    )
    assert z.isfinite().all()
    assert make(0.2).contains(z, x).all()


class Wrap(nn.Module):
    def __init__(self, model: nn.Module, after) -> None:
        super().__init__()
        self.model, self.after = model, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.model(x))


@every_attack
def test_models_without_a_path_from_input_to_logits(name):
    model, x = network((7,), 4), images(5, (7,))
    y = predictions(model, x)
    for severed in (torch.detach, torch.round, torch.zeros_like):
        cut = Wrap(model, severed)
        z = SMALL[name](Linf(0.1))(cut, x, predictions(cut, x), rng())
        assert Linf(0.1).contains(z, x).all()
    assert torch.equal(y, predictions(model, x))


@every_attack
def test_nan_logits_are_failures_of_the_model(name):
    x = images(6, (7,))
    x[:3] = 0.2
    x[3:] = 0.4

    def fragile(z: Tensor) -> Tensor:
        logits = torch.stack([torch.ones(len(z)), z.sum(1) * 1e-3], 1)
        return torch.where((z[:, :1] - 0.4).abs() < 1e-6, torch.nan, logits)

    z = SMALL[name](Linf(0.2))(fragile, x, torch.zeros(6, dtype=torch.long), rng())
    assert torch.equal(z[3:], x[3:]), "NaN at the input itself is already a failure"
    assert z.isfinite().all()


def test_best_iterate_is_kept():
    """More steps of the same run never help the model, and one misclassified iterate is enough."""
    model, x = network((1, 28, 28), 10), images(60, (1, 28, 28))
    y = predictions(model, x)
    for make in (
        lambda steps: PGD(Linf(0.03), steps, step_size=0.03),
        lambda steps: PGD(L2(0.5), steps, step_size=0.5),
    ):
        broken = torch.zeros(60, dtype=torch.bool)
        for steps in (1, 2, 3, 5, 8):
            now = predictions(model, make(steps)(model, x, y, Streams.for_examples(0, torch.arange(60)))) != y
            assert (now | ~broken).all()
            broken = now
        assert 0 < broken.sum() < 60


@pytest.mark.parametrize("make", [PGD, APGD, Square], ids=lambda make: make.__name__)
def test_a_model_in_bfloat16_guides_and_the_model_itself_decides(make: type[PGD]) -> None:
    """Here what stands for the model is so coarse that all seems misclassified from the beginning."""
    model, x = network((1, 28, 28), 4).eval(), images(8, (1, 28, 28))
    label = predictions(model, x)[0]
    x = x[predictions(model, x) == label]
    y = label.expand(len(x))
    quick = fast(model, "bfloat16")
    assert isinstance(quick, Fast)
    quick(x)
    quick._run = lambda z: model(z) - 100 * F.one_hot(label, 4)
    for found in (make(Linf(0.5), steps=30), WorstOf((make(Linf(0.5), steps=30),))):
        assert misclassified(model(found(quick, x, y, rng())), y).all()


@every_threat
def test_restarts_and_more_attacks_never_mend_an_example(make):
    model, x = network((1, 28, 28), 10), images(60, (1, 28, 28))
    y, threat, streams = (
        predictions(model, x),
        make(half_wide(make, (1, 28, 28)).eps),
        Streams.for_examples(0, torch.arange(60)),
    )
    one = Square(threat, steps=1)
    ensembles = [*(restarts(one, count) for count in (1, 2, 4)), WorstOf((one, one, one, one, PGD(threat, steps=5)))]
    broken = [predictions(model, ensemble(model, x, y, streams)) != y for ensemble in ensembles]
    for less, more in pairwise(broken):
        assert (more | ~less).all()
    assert broken[0].sum() < broken[-1].sum() < 60


@pytest.mark.parametrize(
    ("whole", "short"),
    [
        (APGD(Linf(0.1), 40), APGD(Linf(0.1), 40, patience=1)),
        (Square(Linf(0.1), 300), Square(Linf(0.1), 300, patience=1)),
        (FAB(Linf(0.1), 40), FAB(Linf(0.1), 40, reach=1.1)),
    ],
    ids=["apgd", "square", "fab"],
)
def test_examples_that_an_attack_does_not_come_near_are_given_up(whole, short):
    """Twenty examples far from the boundary leave early, one just beyond reach does not, one within reach is broken."""
    looked_at = []

    def model(x: Tensor) -> Tensor:
        looked_at.append(len(x))
        score = x.mean(1) - 0.5
        return torch.stack([score, -score], 1)

    x = torch.full((22, 50), 0.9)
    x[0], x[1] = 0.62, 0.59
    y, streams, rows = torch.zeros(22, dtype=torch.long), Streams.for_examples(0, torch.arange(22)), []
    for adversary in (whole, short):
        looked_at.clear()
        z = adversary(model, x, y, streams)
        rows.append(sum(looked_at))
        assert ((z.mean(1) < 0.5) == (torch.arange(22) == 1)).all()
    assert rows[1] < 0.5 * rows[0]


@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_attacks_abreast_find_what_they_find_in_turn(rows: int) -> None:
    """Point for point, with the random numbers of each, and in fewer calls."""
    threat, k, calls = Linf(0.25), 5, [0]
    model, x = network((7,), k, torch.float64).eval(), images(12, (7,), torch.float64)
    y = predictions(model, x)

    def counted(z: Tensor) -> Tensor:
        calls[0] += 1
        return model(z)

    climbs = EachTarget(APGD(threat, steps=12, loss="dlr-targeted", patience=1.0), 4).parts(k)
    made = abreast((*climbs, *climbs, *[Square(threat, steps=9)] * 2, APGD(threat, steps=5)), rows)
    *groups, alone = made.attacks
    assert [len(group.attacks) for group in groups] == [8, 2]
    assert alone == APGD(threat, steps=5)
    for group in groups:
        found, used = [], []
        for each in (WorstOf(group.attacks), group):
            calls[0] = 0
            found.append(each(counted, x, y, Streams.for_examples(0, torch.arange(len(x)))))
            used.append(calls[0])
        assert torch.equal(*found)
        broken = misclassified(model(found[0]), y)
        assert broken.any()
        assert not broken.all()
        assert rows == 1 or used[1] < used[0]


def test_later_attacks_get_only_what_still_stands():
    model, x = network((1, 28, 28), 10), images(30, (1, 28, 28))
    y, first, seen = predictions(model, x), fgsm(Linf(0.02)), []

    def spy(model, x, y, rng):
        seen.append((x.clone(), len(rng)))
        return x

    broken = predictions(model, first(model, x, y, rng())) != y
    z = WorstOf((first, spy))(model, x, y, rng())
    assert 0 < broken.sum() < 30
    assert seen[0][1] == (~broken).sum()
    assert torch.equal(seen[0][0], x[~broken])
    assert torch.equal(predictions(model, z) != y, broken)


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t"])
@every_threat
def test_relabelled_classes_give_the_same_verdicts(name, make):
    model, x = network((1, 28, 28), 10, torch.float64), images(20, (1, 28, 28), torch.float64)
    y, order = predictions(model, x), torch.randperm(10, generator=rng())
    renamed = Wrap(model, lambda logits: logits[:, order])
    adversary, streams = SMALL[name](half_wide(make, (1, 28, 28))), Streams.for_examples(0, torch.arange(20))
    broken = predictions(model, adversary(model, x, y, streams)) != y
    y_renamed = order.argsort()[y]
    assert torch.equal(predictions(renamed, adversary(renamed, x, y_renamed, streams)) != y_renamed, broken)
    assert 0 < broken.sum() < 20


@pytest.mark.parametrize("name", ["pgd-margin", "apgd-dlr", "apgd-t", "fab-t", "square"])
@every_threat
def test_scaled_and_shifted_logits_give_the_same_verdicts(name, make):
    model, x = network((1, 28, 28), 10, torch.float64), images(20, (1, 28, 28), torch.float64)
    y, adversary = predictions(model, x), SMALL[name](half_wide(make, (1, 28, 28)))
    streams = Streams.for_examples(0, torch.arange(20))

    def verdicts(scale: float, shift: float) -> Tensor:
        changed = Wrap(model, lambda logits: scale * logits + shift)
        return predictions(model, adversary(changed, x, y, streams)) != y

    for scale, shift in ((1e6, 0.0), (1e-6, 0.0), (1.0, 3.0)):
        assert torch.equal(verdicts(scale, shift), verdicts(1.0, 0.0))


def test_saturated_cross_entropy_still_has_a_direction():
    """With logits a million times larger softmax is exactly one-hot; the attack is as strong as before."""
    model, x = network((1, 28, 28), 2), images(40, (1, 28, 28))
    y, loud = predictions(model, x), Wrap(model, lambda logits: 1e6 * logits)
    for make in THREATS.values():
        adversary = PGD(half_wide(make, (1, 28, 28)), steps=5, random_start=False)
        broken = predictions(model, adversary(model, x, y, rng())) != y
        assert broken.any()
        assert torch.equal(predictions(model, adversary(loud, x, y, rng())) != y, broken)


@pytest.mark.parametrize("name", ["pgd-100-restarts-10", "apgd-ce", "apgd-t"])
@every_threat
def test_planted_adversarial_examples_are_found(name, make):
    """The last bias is moved so that a random point of the ball, and with it x no longer, is misclassified."""
    found = planted = 0
    for seed in range(20):
        model, x, threat = network((7,), 2, torch.float64, seed).eval(), images(1, (7,), torch.float64, seed), make(0.1)
        y = predictions(model, x)
        corner = x + 0.1 * torch.randn(x.shape, generator=rng(seed), dtype=torch.float64).sign()
        point = threat.project(corner, x)
        with torch.no_grad():
            here, there = ((model(z)[0, y] - model(z)[0, 1 - y]).item() for z in (x, point))
            if there >= here - 1e-3:
                continue
            model[1].bias[y] -= there + 0.05 * (here - there)
        planted += 1
        assert predictions(model, x) == y
        found += int(predictions(model, attack(name, threat)(model, x, y, rng(seed))) != y)
    assert planted >= 10
    assert found >= 0.95 * planted


def test_targeted_attacks_reach_the_class_that_was_asked_for():
    model, x = network((1, 28, 28), 5), images(20, (1, 28, 28))
    y = predictions(model, x)
    targets = (y + 1 + torch.arange(20) % 4) % 5
    z = targeted(PGD(Linf(0.3), 20), model, x, y, targets, rng())
    assert Linf(0.3).contains(z, x).all()
    hit = predictions(model, z) == targets
    assert hit.float().mean() > 0.8
    for k in (1, 2):  # alone as in company
        alone = targeted(
            PGD(Linf(0.3), 20, random_start=False), model, x[k : k + 1], y[k : k + 1], targets[k : k + 1], rng()
        )
        both = targeted(PGD(Linf(0.3), 20, random_start=False), model, x, y, targets, rng())
        torch.testing.assert_close(alone, both[k : k + 1])
    with pytest.raises(InputError, match="differ from the true label; example 3"):
        targeted(PGD(Linf(0.3)), model, x, y, targets.where(torch.arange(20) != 3, y), rng())


def test_a_target_already_met_is_left_alone():
    model, x = network((1, 28, 28), 5), images(4, (1, 28, 28))
    said = predictions(model, x)
    assert torch.equal(targeted(PGD(Linf(0.1)), model, x, (said + 1) % 5, said, rng()), x)


def test_averaging_a_randomised_model_finds_what_one_draw_misses():
    torch.manual_seed(0)
    weight = torch.randn(7, 2)

    def noisy(x: Tensor) -> Tensor:
        return (x + 0.5 * torch.randn_like(x)) @ weight

    x = images(64, (7,))
    y = (x @ weight).argmax(1)

    def mean_margin(z: Tensor) -> float:
        logits = z @ weight
        return float((logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).mean())

    single, averaged = (
        PGD(L2(0.3), 5, step_size=0.1).ascend(model, x, y, rng()) for model in (noisy, Averaged(noisy, 64))
    )
    assert mean_margin(averaged) <= mean_margin(single) + 1e-3
    one, many = (torch.stack([model(x) for _ in range(20)]).std(0).mean() for model in (noisy, Averaged(noisy, 64)))
    assert many < one / 5


def test_averaged_modules_are_put_into_evaluation_mode_and_back():
    model, x = network((7,), 3), images(4, (7,))
    both = Averaged(model, 2).train()
    y = predictions(model, x)
    fgsm(Linf(0.01))(both, x, y, rng())
    assert all(module.training for module in both.modules())
    torch.testing.assert_close(both.eval()(x), model.eval()(x))


def test_pgd_ascend_moves_misclassified_examples_too():
    model, x = network((7,), 3).eval(), images(6, (7,))
    y = (predictions(model, x) + 1) % 3
    threat = Linf(0.1)
    z = PGD(threat, 5).ascend(model, x, y, rng())
    loss = nn.CrossEntropyLoss(reduction="none")
    assert threat.contains(z, x).all()
    assert (loss(model(z), y) > loss(model(x), y)).all()


@pytest.mark.parametrize("name", ATTACKS)
@every_threat
def test_recipes_are_values_that_print_and_compare(name, make):
    recipe = attack(name, make(0.1))
    assert recipe == attack(name, make(0.1)) != attack(name, make(0.2))
    assert hash(recipe) == hash(attack(name, make(0.1)))
    assert f"{make.__name__}(eps=0.1" in repr(recipe)


def test_unknown_recipes_are_answered_with_the_nearest():
    with pytest.raises(InputError, match='unknown attack "pdg-40"; did you mean "pgd-40"'):
        attack("pdg-40", Linf(0.1))


def test_misclassified_counts_nan_against_the_model():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 1.0], [1.0, torch.nan], [torch.nan, torch.nan]])
    assert misclassified(logits, torch.zeros(5, dtype=torch.long)).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("name", ["pgd-3", "pgd-5", "pgd-7", "pgd-8", "pgd-10", "pgd-40", "pgd-100"])
def test_steps_from_the_rim_can_cross_the_ball(name: str) -> None:
    """A random start in an l_2 ball of many dimensions lies near its rim: 40 steps of eps / 30 end half-way."""
    attack = ATTACKS[name](L2(1.5))
    assert isinstance(attack, PGD)
    assert attack.length * attack.steps >= 2 * 1.5
    assert ATTACKS["pgd-40"](Linf(0.3)) == PGD(Linf(0.3), steps=40, step_size=0.3 / 30)  # the paper's
