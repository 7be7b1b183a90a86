"""Affine models, where the best adversary is known: nobody beats it, and those who should reach it do."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from nofreelunch.attacks import APGD, FAB, PGD, EachTarget, ExactLinear, Square, fgsm, margin, restarts
from nofreelunch.errors import InputError
from nofreelunch.threats import L2, THREATS, Linf, Threat

every_threat = pytest.mark.parametrize("make", THREATS.values(), ids=THREATS.keys())


def affine(d: int, k: int, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(d, k, dtype=torch.float64)


def inputs(n: int, d: int, seed: int = 0) -> Tensor:
    """Points of the unit cube, a quarter of their coordinates on its faces."""
    x = torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * 1.5 - 0.25).clamp(0, 1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def strict_margin(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return margin(model(z), y)


def closed_form(model: nn.Linear, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The largest margin in the ball without a box: that of the best j, margin_j(x) + eps dual(w_j - w_y)."""
    with torch.no_grad():
        logits, rows = model(x), []
        for j in range(logits.shape[1]):
            slope = model.weight[j] - model.weight[y]
            gain = logits[:, j] - logits.gather(1, y[:, None])[:, 0] + threat.eps * threat.dual(slope)
            rows.append(gain.masked_fill(y == j, -torch.inf))
    return torch.stack(rows).amax(0)


ATTACKS_FOR_LINEAR = {
    "fgsm": fgsm,
    "pgd": lambda threat: PGD(threat, 20, loss="margin"),
    "pgd-restarts": lambda threat: restarts(PGD(threat, 10), 3),
    "apgd-ce": lambda threat: APGD(threat, 30),
    "apgd-dlr": lambda threat: APGD(threat, 30, loss="dlr"),
    "apgd-t": lambda threat: EachTarget(APGD(threat, 30, loss="dlr-targeted")),
    "fab-t": lambda threat: EachTarget(FAB(threat, 20)),
    "square": lambda threat: Square(threat, 100),
    "exact": ExactLinear,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ATTACKS_FOR_LINEAR)
@every_threat
def test_no_attack_exceeds_the_closed_form(name, make):
    for k, eps in itertools.product((2, 5), (0.003, 0.05)):
        model, x, threat = affine(30, k), inputs(12, 30), make(eps, box=None)
        y = model(x).argmax(1)
        z = ATTACKS_FOR_LINEAR[name](threat)(model, x, y, rng())
        assert (strict_margin(model, z, y) <= closed_form(model, x, y, threat) + 1e-12).all()


@every_threat
def test_fgsm_attains_the_closed_form_with_two_classes(make):
    model, x, threat = affine(30, 2), inputs(20, 30), make(0.05, box=None)
    y = model(x).argmax(1)
    z = fgsm(threat)(model, x, y, rng())
    torch.testing.assert_close(strict_margin(model, z, y), closed_form(model, x, y, threat), rtol=0, atol=1e-12)


@every_threat
def test_exact_attains_the_closed_form_with_any_number_of_classes(make):
    for k in (2, 3, 4, 10):
        model, x, threat = affine(30, k), inputs(20, 30), make(0.05, box=None)
        y = model(x).argmax(1)
        z = ExactLinear(threat)(model, x, y, rng())
        torch.testing.assert_close(strict_margin(model, z, y), closed_form(model, x, y, threat), rtol=0, atol=1e-12)


@every_threat
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0)])
def test_exact_takes_what_is_affine_in_the_box(make, box):
    """Cut off at its walls or not: the derivative is taken in its middle."""
    model, threat = affine(30, 3), make(0.05, box=box)
    x = box[0] + (box[1] - box[0]) * inputs(20, 30)
    y = model(x).argmax(1)
    z, same = (ExactLinear(threat)(net, x, y, rng()) for net in (model, lambda z: model(z.clamp(*box))))
    torch.testing.assert_close(z, same, rtol=0, atol=1e-12)
    assert threat.contains(z, x).all()


@every_threat
def test_pgd_comes_within_five_percent(make):
    model, x, threat = affine(30, 2), inputs(40, 30), make(0.004, box=None)
    y = model(x).argmax(1)
    clean, best = strict_margin(model, x, y), closed_form(model, x, y, threat)
    reached = strict_margin(model, PGD(threat, 40)(model, x, y, rng()), y)
    unbroken = reached < 0  # a broken example leaves at once, before its maximum
    assert unbroken.sum() > 10
    assert ((reached - clean)[unbroken] >= 0.95 * (best - clean)[unbroken]).all()


@pytest.mark.parametrize("k", [2, 3, 4])
def test_exact_is_the_best_corner_of_ball_and_box(k):
    model, x, eps = affine(8, k), inputs(20, 8), 0.3
    y = model(x).argmax(1)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)), dtype=torch.float64)
    best = torch.full((20,), -torch.inf, dtype=torch.float64)
    for corner in corners:
        best = torch.maximum(best, strict_margin(model, low + corner * (high - low), y))
    z = ExactLinear(Linf(eps))(model, x, y, rng())
    torch.testing.assert_close(strict_margin(model, z, y), best, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_exact_is_the_optimum_of_ball_and_box_in_l2(k):
    model, x, eps = affine(6, k, seed=1), inputs(6, 6), 0.6
    y = model(x).argmax(1)
    reached = strict_margin(model, ExactLinear(L2(eps))(model, x, y, rng()), y)
    weight, bias = model.weight.detach().numpy(), model.bias.detach().numpy()
    for xi, yi, ours in zip(x.numpy(), y.tolist(), reached.tolist(), strict=True):
        peaks = []
        for j in set(range(k)) - {yi}:
            slope = weight[j] - weight[yi]
            ball = {"type": "ineq", "fun": lambda z, xi=xi: eps**2 - ((z - xi) ** 2).sum()}
            found = minimize(
                lambda z, slope=slope: -slope @ z, xi, bounds=[(0, 1)] * 6, constraints=ball, options={"ftol": 1e-13}
            )
            peaks.append(-found.fun + bias[j] - bias[yi])
        assert ours == pytest.approx(max(peaks), abs=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ATTACKS_FOR_LINEAR)
@every_threat
def test_no_attack_exceeds_the_exact_one_in_the_box(name, make):
    for k, eps in itertools.product((2, 5), (0.003, 0.1)):
        model, x, threat = affine(30, k), inputs(20, 30), make(eps)
        y = model(x).argmax(1)
        best = strict_margin(model, ExactLinear(threat)(model, x, y, rng()), y)
        z = ATTACKS_FOR_LINEAR[name](threat)(model, x, y, rng())
        assert (strict_margin(model, z, y) <= best + 1e-12).all()


@cache
def smallest_radii(make: type[Threat], k: int) -> tuple[nn.Linear, Tensor, Tensor, list[float]]:
    """An affine model, inputs and labels, and for each input the radius at which the exact adversary breaks it."""
    model, x = affine(30, k), inputs(12, 30)
    y, radii = model(x).argmax(1), []
    for i in range(12):
        low, high = 0.0, 1.0 if make is Linf else 5.0
        for _ in range(12):
            eps = (low + high) / 2
            z = ExactLinear(make(eps))(model, x[i : i + 1], y[i : i + 1], rng())
            low, high = (low, eps) if strict_margin(model, z, y[i : i + 1]) > 0 else (eps, high)
        radii.append(high)
    return model, x, y, radii


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "k"),
    [("pgd", 2), ("apgd-ce", 2), ("apgd-dlr", 2), ("apgd-t", 2), ("fab-t", 2), ("apgd-t", 4), ("fab-t", 4)],
)
@every_threat
def test_strong_attacks_give_the_exact_verdict(name, k, make):
    """Beyond two classes that takes the targeted ones: a local maximum towards another class may hold the others."""
    model, x, y, radii = smallest_radii(make, k)
    for i, radius in enumerate(radii):
        z = ATTACKS_FOR_LINEAR[name](make(1.05 * radius))(model, x[i : i + 1], y[i : i + 1], rng())
        assert strict_margin(model, z, y[i : i + 1]) > 0, f"example {i} survives {1.05 * radius}"


def test_exact_in_float32_stays_in_the_set():
    model, x = affine(30, 4).float(), inputs(50, 30).float()
    y = model(x).argmax(1)
    for make in (Linf, L2):
        z = ExactLinear(make(0.07))(model, x, y, rng())
        assert z.dtype == torch.float32
        assert make(0.07).contains(z, x).all()


def test_exact_takes_normalisation_flattening_and_constant_logits():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    nn.init.zeros_(constant[1].weight)
    x = torch.rand(5, 3, 2, 2)
    y = constant(x).argmax(1)
    assert torch.equal(constant(ExactLinear(Linf(0.1))(constant, x, y, rng())).argmax(1), y)


def test_exact_refuses_a_model_that_bends():
    torch.manual_seed(0)
    for bent in (nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3)), nn.Sequential(nn.Linear(5, 3), nn.Tanh())):
        x = torch.rand(8, 5)
        with pytest.raises(InputError, match="not affine"):
            ExactLinear(Linf(0.1))(bent, x, bent(x).argmax(1), rng())


def test_the_margin_of_the_paper_s_binary_classifier():
    # Madry's adversary of a linear classifier: y (w.x + b) - eps |w|_1.
    model, x = affine(30, 2), inputs(20, 30)
    y = model(x).argmax(1)
    w = (model.weight[1] - model.weight[0]).detach().numpy()
    sign = np.where(y.numpy() == 1, 1, -1)
    b = float((model.bias[1] - model.bias[0]).detach())
    worst = -(sign * (x.numpy() @ w + b) - 0.02 * np.abs(w).sum())
    z = fgsm(Linf(0.02, box=None))(model, x, y, rng())
    np.testing.assert_allclose(strict_margin(model, z, y).numpy(), worst, atol=1e-12)
