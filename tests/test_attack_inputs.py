"""Wrong inputs to attacks are answered at the door, in one sentence with the argument, the value and the way out."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nofreelunch.attacks import APGD, FAB, PGD, EachTarget, ExactLinear, Square, WorstOf, fgsm, restarts
from nofreelunch.attacks.door import check_batch
from nofreelunch.errors import InputError
from nofreelunch.threats import Linf

X, Y = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
torch.manual_seed(0)
MODEL = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 10))


def first_bad(value: float) -> Tensor:
    x = X.clone()
    x[2, 0, 0, 0] = value
    return x


BATCHES = [
    (X * 255, Y, r"must lie in \[0, 1\], got values from .* to 25\d.*divide by 255"),
    ((X - 0.5) / 0.25, Y, "normalise inside the model"),
    (X.mul(255).byte(), Y, r"x is uint8; .* x\.float\(\) / 255"),
    (X.long(), Y, "float32 or float64, got torch.int64"),
    (X.half(), Y, "float32 or float64, got torch.float16"),
    (torch.rand(4), Y, r"batch dimension .* got shape \(4,\)"),
    (first_bad(torch.nan), Y, "example 2 holds NaN"),
    (first_bad(torch.inf), Y, "example 2 holds NaN or inf"),
    (X, Y + 7, r"label 10 seen, but the model has 10 outputs \(0..9\)"),
    (X, Y - 1, "label -1 seen"),
    (X, Y.where(Y != 2, -100), "label -100 seen"),
    (X, Y.float(), "y must hold integers, got torch.float32"),
    (X, torch.eye(10)[Y], r"got shape \(4, 10\); for one-hot labels use y.argmax\(1\)"),
    (X, Y[:3], "x holds 4 examples and y 3 labels"),
    (X[0], Y[:1], "x holds 3 examples and y 1 labels"),
    (X[:, 0], Y, r"cannot take x of shape \(4, 6, 6\)"),
    (X.permute(0, 2, 3, 1), Y, r"cannot take x of shape \(4, 6, 6, 3\)"),
]

MODELS = [
    (lambda x: MODEL(x)[:, 0], r"logits \(n, k\), got \(4,\).*\[-z, z\]"),
    (lambda x: MODEL(x)[:, :1], r"at least 2 logits, got 1; wrap a binary model to return \[-z, z\]"),
    (lambda x: (MODEL(x), x), "a tensor of logits, got tuple"),
    (lambda x: {"logits": MODEL(x)}, "a tensor of logits, got dict"),
]

NOT_MODELS = [
    (nn.Linear, "got the class Linear; write Linear"),
    ("model.safetensors", "callable from inputs to logits, got 'model.safetensors'"),
    (None, "callable from inputs to logits, got None"),
]

ATTACKS = [
    fgsm,
    PGD,
    Square,
    FAB,
    lambda threat: WorstOf((fgsm(threat),)),
    lambda threat: EachTarget(APGD(threat, loss="dlr-targeted")),
]


@pytest.mark.parametrize("make", ATTACKS)
@pytest.mark.parametrize(("x", "y", "message"), BATCHES, ids=[message for *_, message in BATCHES])
def test_batches_that_cannot_be_attacked(make, x, y, message):
    with pytest.raises(InputError, match=message):
        make(Linf(0.1))(MODEL, x, y, torch.Generator())


@pytest.mark.parametrize(("model", "message"), MODELS, ids=[message for _, message in MODELS])
def test_models_that_cannot_be_attacked(model, message):
    with pytest.raises(InputError, match=message):
        fgsm(Linf(0.1))(model, X, Y, torch.Generator())


@pytest.mark.parametrize(("thing", "message"), NOT_MODELS, ids=[message for _, message in NOT_MODELS])
def test_things_that_are_no_models(thing, message):
    with pytest.raises(InputError, match=message):
        check_batch(thing, X, Y, box=None)


def test_inputs_outside_zero_and_one_are_fine_without_a_box():
    z = fgsm(Linf(0.1, box=None))(MODEL, X * 5 - 2, MODEL(X * 5 - 2).argmax(1), torch.Generator())
    assert z.min() < -0.5


def test_an_error_of_our_own_is_passed_on_as_it_is():
    def picky(x: Tensor) -> Tensor:
        raise InputError("only on Sundays")

    with pytest.raises(InputError, match=r"^only on Sundays$"):
        fgsm(Linf(0.1))(picky, X, Y, torch.Generator())


@pytest.mark.parametrize("steps", [0, -1, True])
@pytest.mark.parametrize("attack", [PGD, APGD, FAB, Square])
def test_steps_must_be_a_count(attack, steps):
    with pytest.raises(InputError, match="steps must be a whole number of at least 1, got"):
        attack(Linf(0.1), steps=steps)


@pytest.mark.parametrize("size", [0.0, -0.01, float("nan"), float("inf")])
def test_steps_must_go_somewhere(size):
    with pytest.raises(InputError, match="step_size"):
        PGD(Linf(0.1), 10, step_size=size)


def test_steps_that_cannot_reach_the_surface_are_warned_of():
    with pytest.warns(UserWarning, match=r"10 steps of 0\.001 cannot reach the surface of a ball of radius 0\.1"):
        PGD(Linf(0.1), 10, step_size=0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(Linf(0.1), 10, step_size=0.01)
        fgsm(Linf(8 / 255))


def test_the_default_step_crosses_the_ball():
    """Another ball as well: one of the length for a smaller one reports robustness that is not there."""
    short = PGD(Linf(0.3), 40)
    assert short.length == pytest.approx(2.5 * 0.3 / 40)
    assert replace(short, threat=Linf(0.6)) == PGD(Linf(0.6), 40)
    assert replace(short, threat=Linf(0.6)).length == pytest.approx(2 * short.length)
    assert replace(short, steps=80).length == pytest.approx(short.length / 2)
    assert replace(PGD(Linf(0.1), 10, step_size=0.02), threat=Linf(0.2)).length == 0.02


def test_identical_restarts_are_refused():
    ball = Linf(0.1)
    for attack in (
        fgsm(ball),
        FAB(ball),
        ExactLinear(ball),
        EachTarget(APGD(ball, loss="dlr-targeted", random_start=False)),
        WorstOf((fgsm(ball),)),
    ):
        with pytest.raises(InputError, match="random_start=True"):
            restarts(attack, 10)
    restarts(EachTarget(APGD(ball, loss="dlr-targeted")), 10)
    restarts(WorstOf((fgsm(ball), APGD(ball))), 10)
    with pytest.raises(InputError, match="restarts must be"):
        restarts(PGD(Linf(0.1)), 0)


def test_no_attack_is_asked_about_nothing():
    def proud(model, x, y, rng):
        assert len(x) > 0
        return x

    x, y = X[:4], MODEL(X[:4]).argmax(1)
    wrong = (y + 1) % 10
    assert torch.equal(WorstOf((PGD(Linf(0.1), 2), proud))(MODEL, x, wrong, torch.Generator()), x)


def test_an_ensemble_needs_a_member():
    with pytest.raises(InputError, match="at least one attack"):
        WorstOf(())


def test_unknown_losses_are_answered_with_the_known():
    for attack in (PGD, APGD):
        with pytest.raises(InputError, match=r'unknown loss "cross"; .*known: ce, dlr, dlr-targeted, margin'):
            attack(Linf(0.1), loss="cross")


def test_a_rank_beyond_the_wrong_classes_is_refused():
    with pytest.raises(InputError, match="target_rank must be at most 9 with 10 classes, got 10"):
        APGD(Linf(0.1), loss="dlr-targeted", target_rank=10)(MODEL, X, MODEL(X).argmax(1), torch.Generator())


def test_a_loss_that_wants_a_target_is_no_typing_error() -> None:
    with pytest.raises(InputError, match=r'loss "dlr-targeted" wants a target, which APGD chooses'):
        PGD(Linf(0.1), loss="dlr-targeted")


def test_a_rank_is_refused_where_it_would_mean_nothing():
    with pytest.raises(InputError, match='target_rank is for the loss "dlr-targeted", got 2'):
        APGD(Linf(0.1), target_rank=2)
    with pytest.raises(InputError, match='target_rank is for the loss "dlr-targeted"'):
        EachTarget(APGD(Linf(0.1)))
