"""The Gaussian model: every accuracy in closed form against simulation, and against limits known by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from nofreelunch.errors import InputError
from nofreelunch.theory import GaussianModel, fit_sample_svm, robust_accuracy_bound, transfer_accuracy
from nofreelunch.theory.linear import LinearRule
from nofreelunch.theory.transfer import rule_transfer_accuracy

PAPER = GaussianModel(d=1000, eta=4 / math.sqrt(1000))
SMALL = GaussianModel(d=3, eta=0.6, p=0.7)
N = 200_000
WEIGHTS = {
    "mixed signs": ([0.9, 0.5, -0.2, 0.7], 0.0),
    "offset": ([0.4, 0.3, 0.3, 0.3], -0.35),
    "no weak weights": ([0.8, 0.0, 0.0, 0.0], 0.5),
    "x_1 against the label": ([-0.5, 1.0, 0.0, 0.2], 0.1),
}

unit = st.floats(0, 1)
models = st.builds(GaussianModel, d=st.integers(1, 6), eta=st.floats(0, 2), p=st.floats(0.05, 0.95))


def attack(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, eps: float, norm: str = "linf", adversary: str = "full"
) -> np.ndarray:
    """The strongest move against a linear classifier, written out for each example."""
    reach = w.copy()
    if adversary == "weak":
        reach[0] = 0
    step = np.sign(reach) if norm == "linf" else reach / (np.linalg.norm(reach) or 1.0)
    return x - eps * y[:, None] * step


def assert_simulated(exact: float, correct: np.ndarray) -> None:
    """Within 5 standard errors: one false alarm in two million."""
    assert abs(correct.mean() - exact) <= 5 * math.sqrt(max(exact * (1 - exact), 1 / N) / N)


@pytest.mark.parametrize("adversary", ["full", "weak"])
@pytest.mark.parametrize("ball", ["linf", "l2"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_accuracies_against_simulation(name: str, ball: str, adversary: str) -> None:
    weights, b = WEIGHTS[name]
    w, eps = np.array(weights), 0.25
    x, y = SMALL.sample(N, np.random.default_rng(1))
    attacked = attack(x, y, w, eps, ball, adversary)
    assert_simulated(SMALL.clean_accuracy(w, b), y * (x @ w + b) > 0)
    assert_simulated(SMALL.robust_accuracy(w, eps, b, ball, adversary), y * (attacked @ w + b) > 0)


@pytest.mark.parametrize("source", WEIGHTS)
@pytest.mark.parametrize("target", WEIGHTS)
def test_transfer_against_simulation(source: str, target: str) -> None:
    w_source, w_target = (np.array(WEIGHTS[name][0]) for name in (source, target))
    x, y = SMALL.sample(N, np.random.default_rng(2))
    attacked = attack(x, y, w_source, 0.4)
    assert_simulated(transfer_accuracy(SMALL, w_source, w_target, 0.4), y * (attacked @ w_target) > 0)


def test_samples_follow_the_model() -> None:
    x, y = SMALL.sample(N, np.random.default_rng(3))
    assert x.shape == (N, 4)
    assert set(np.unique(y)) == {-1, 1}
    assert_simulated(0.5, y > 0)
    assert_simulated(0.7, x[:, 0] == y)
    assert set(np.unique(x[:, 0])) == {-1.0, 1.0}
    centred = x[:, 1:] * y[:, None] - 0.6
    np.testing.assert_allclose(centred.mean(0), 0, atol=5 / math.sqrt(N))
    np.testing.assert_allclose(np.cov(centred.T), np.eye(3), atol=10 / math.sqrt(N))
    again, _ = SMALL.sample(N, np.random.default_rng(3))
    np.testing.assert_array_equal(x, again)


def test_the_average_of_the_weak_features_has_variance_one_over_d() -> None:
    """The display under (4) prints N(eta, 1); with that 99 % would take eta = 2.3, with 1/d it takes 3 / sqrt(d)."""
    x, y = GaussianModel(d=400, eta=0.15).sample(20_000, np.random.default_rng(4))
    average = y * x[:, 1:].mean(1)
    assert average.var() == pytest.approx(1 / 400, rel=0.05)
    w = np.concatenate([[0.0], np.full(400, 1 / 400)])
    assert GaussianModel(d=400, eta=3 / 20).clean_accuracy(w) == pytest.approx(norm.cdf(3), abs=1e-12)
    assert norm.cdf(3) > 0.99 > norm.cdf(0.15)


def test_limits_known_by_hand() -> None:
    average = np.concatenate([[0.0], np.full(1000, 1e-3)])
    x1 = np.concatenate([[1.0], np.zeros(1000)])
    assert PAPER.clean_accuracy(average) == pytest.approx(norm.cdf(4), abs=1e-12)
    assert PAPER.robust_accuracy(average, 2 * PAPER.eta) == pytest.approx(norm.cdf(-4), abs=1e-15)
    assert PAPER.robust_accuracy(average, PAPER.eta) == pytest.approx(0.5, abs=1e-12)
    assert PAPER.robust_accuracy(average, 0.5, norm="l2") == pytest.approx(norm.cdf(3.5), abs=1e-12)
    assert PAPER.clean_accuracy(x1) == 0.7
    assert PAPER.robust_accuracy(x1, 0.999) == 0.7
    assert PAPER.robust_accuracy(x1, 1.0) == 0.0  # x_1 can be set to 0: a tie
    assert PAPER.robust_accuracy(x1, 5.0, adversary="weak") == 0.7


def test_against_l2_the_roles_turn_round() -> None:
    """For 1 <= eps < mu the l_2 adversary erases x_1, and the weak features together withstand it."""
    average, x1 = LinearRule.pooled(0.0, 1.0, 1000), LinearRule.pooled(1.0, 0.0, 1000)
    for eps in (1.0, 1.5):
        assert PAPER.rule_accuracy(x1, eps, "l2") == 0.0
        assert PAPER.rule_accuracy(average, eps, "l2") == pytest.approx(norm.cdf(4 - eps), abs=1e-12)
    eps = 2 * PAPER.eta
    assert PAPER.rule_accuracy(x1, eps) > 0.69 > 1e-4 > PAPER.rule_accuracy(average, eps)


@pytest.mark.parametrize("b", [0.0, 1.0, -1.0])
def test_a_tie_is_an_error(b: float) -> None:
    assert SMALL.clean_accuracy(np.zeros(4)) == 0.0
    assert SMALL.clean_accuracy([1.0, 0.0, 0.0, 0.0], b) == pytest.approx(0.35 if b else 0.7)
    assert SMALL.clean_accuracy(np.zeros(4), 2.0) == 0.5


@given(models, st.lists(st.floats(-3, 3), min_size=7, max_size=7), st.floats(-1, 1), unit, unit)
@settings(max_examples=60, deadline=None)
def test_laws_of_robust_accuracy(model: GaussianModel, w: list[float], b: float, eps: float, more: float) -> None:
    weights = np.array(w[: model.d + 1])
    for ball in ("linf", "l2"):
        clean, weak, full = (
            model.clean_accuracy(weights, b),
            model.robust_accuracy(weights, eps, b, ball, "weak"),
            model.robust_accuracy(weights, eps, b, ball),
        )
        assert 0 <= full <= weak <= clean <= 1
        assert model.robust_accuracy(weights, eps + more, b, ball) <= full
        assert model.robust_accuracy(weights, 0.0, b, ball) == clean
        # the label's sign, and the scale of the weights, mean nothing
        assert model.robust_accuracy(weights, eps, -b, ball) == pytest.approx(full, abs=1e-12)
        assert model.robust_accuracy(8 * weights, eps, 8 * b, ball) == pytest.approx(full, abs=1e-12)
    assert model.robust_accuracy(weights, eps, b, "linf") <= model.robust_accuracy(weights, eps, b, "l2")
    assert transfer_accuracy(model, weights, weights, eps) == pytest.approx(
        model.robust_accuracy(weights, eps), abs=1e-12
    )
    assert transfer_accuracy(model, np.zeros_like(weights), weights, eps) == model.clean_accuracy(weights)


@given(models, st.lists(st.floats(-3, 3), min_size=7, max_size=7), st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_no_linear_classifier_is_more_accurate_than_bayes(model: GaussianModel, w: list[float], b: float) -> None:
    best = model.rule_accuracy(model.bayes(), 0.0)
    assert model.clean_accuracy(w[: model.d + 1], b) <= best + 1e-12


@given(models, st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), unit)
@settings(max_examples=60, deadline=None)
def test_pooled_rules_are_dense_ones(
    model: GaussianModel, w1: float, v: float, s1: float, sv: float, eps: float
) -> None:
    dense, source = (np.array([a, *[c / math.sqrt(model.d)] * model.d]) for a, c in ((w1, v), (s1, sv)))
    rule, other = LinearRule.pooled(w1, v, model.d), LinearRule.pooled(s1, sv, model.d)
    if min(abs(w1), abs(v)) < 1e-6 or (abs(abs(w1) - eps * (abs(w1) + abs(v) * math.sqrt(model.d))) < 1e-9):
        return
    if any(0 < abs(weight) < 1e-300 for weight in (s1, sv)):  # spread over the coordinates it would be 0
        return
    for ball in ("linf", "l2"):
        pooled = model.rule_accuracy(rule, eps, ball)
        assert pooled == pytest.approx(model.robust_accuracy(dense, eps, norm=ball), abs=1e-12)
    exact = transfer_accuracy(model, source, dense, eps)
    assert rule_transfer_accuracy(model, other, rule, eps) == pytest.approx(exact, abs=1e-12)


def test_accuracy_does_not_lose_its_digits_in_the_tail_or_the_scale() -> None:
    model = GaussianModel(d=1, eta=0.0)
    assert model.robust_accuracy([0.0, 1.0], 20.0) == pytest.approx(norm.cdf(-20), rel=1e-12)
    assert model.clean_accuracy([1e300, 1e300], 1e300) == pytest.approx(model.clean_accuracy([1.0, 1.0], 1.0))
    assert model.clean_accuracy([1e-300, 1e-300]) == pytest.approx(model.clean_accuracy([1.0, 1.0]))
    huge = GaussianModel(d=10**8, eta=4e-4)
    assert huge.rule_accuracy(LinearRule.pooled(0.0, 1.0, 10**8), 2 * huge.eta) == pytest.approx(norm.cdf(-4), rel=1e-9)


def test_the_bound_of_theorem_2_1() -> None:
    assert robust_accuracy_bound(clean_error=0.01, p=0.75) == pytest.approx(0.03, abs=1e-15)
    assert robust_accuracy_bound(0.03, 0.7) == pytest.approx(0.07)
    assert robust_accuracy_bound(0.03, 0.3) == pytest.approx(0.07)  # x_1 is as telling when it is mostly wrong
    assert robust_accuracy_bound(0.3, 0.7) == pytest.approx(0.7)
    assert robust_accuracy_bound(0.2, 0.5) == 0.2
    assert robust_accuracy_bound(0.0, 0.999) == 0.0
    assert robust_accuracy_bound(0.9, 0.7) == 1.0


def test_svms_of_two_samples_share_their_adversarial_examples() -> None:
    model = GaussianModel(d=100, eta=0.4)
    first, second = (fit_sample_svm(*model.sample(500, np.random.default_rng(seed)), lam=0.01) for seed in (0, 1))
    assert max(first.gap, second.gap) < 1e-5
    assert model.clean_accuracy(second.w) > 0.99
    assert transfer_accuracy(model, first.w, second.w, 2 * model.eta) < 0.01


def test_the_svm_of_a_sample_is_the_optimum_by_its_gap_and_by_its_neighbours() -> None:
    rng = np.random.default_rng(5)
    x, y = SMALL.sample(300, rng)
    fit = fit_sample_svm(x, y, lam=0.1)

    def objective(w: np.ndarray) -> float:
        return float(np.maximum(0, 1 - y * (x @ w)).mean() + 0.05 * w @ w)

    assert fit.objective == pytest.approx(objective(fit.w), abs=1e-12)
    assert 0 <= fit.gap + 1e-12 < 1e-6
    for _ in range(200):
        assert objective(fit.w + rng.normal(size=4) * 10 ** rng.uniform(-4, 0)) >= fit.objective - fit.gap - 1e-12


BAD = {
    "d": (lambda: GaussianModel(0, 0.1), "d must be"),
    "huge d": (lambda: GaussianModel(10**13, 0.1), "d must be at most"),
    "negative eta": (lambda: GaussianModel(3, -0.1), "eta must be in"),
    "eta is nan": (lambda: GaussianModel(3, math.nan), "eta must be in"),
    "p": (lambda: GaussianModel(3, 0.1, 1.2), "p must be in"),
    "p is 1": (lambda: GaussianModel(3, 0.1, 1.0), "p must be in"),
    "p is as good as 0": (lambda: GaussianModel(3, 0.1, 5e-17), "p must be in [1e-12, 1), got 5e-17"),
    "n": (lambda: SMALL.sample(0, np.random.default_rng(0)), "n must be"),
    "too few weights": (lambda: SMALL.clean_accuracy([1.0, 1.0]), "w must have shape (4,)"),
    "infinite weight": (lambda: SMALL.clean_accuracy([1.0, math.inf, 0.0, 0.0]), "w must be finite"),
    "weights are words": (lambda: SMALL.clean_accuracy(["a", "b", "c", "d"]), "w must be a vector"),
    "infinite offset": (lambda: SMALL.clean_accuracy(np.ones(4), math.inf), "b must be"),
    "eps": (lambda: SMALL.robust_accuracy(np.ones(4), -0.1), "eps must be in"),
    "clean_error": (lambda: robust_accuracy_bound(1.5, 0.7), "clean_error must be in"),
    "p of the bound": (lambda: robust_accuracy_bound(0.1, 1.0), "p must be in"),
    "p of the bound is as good as 0": (lambda: robust_accuracy_bound(0.0, 5e-324), "p must be in [1e-12, 1)"),
    "w_source": (lambda: transfer_accuracy(SMALL, [1.0], np.ones(4), 0.1), "w_source must have shape"),
    "w_target": (lambda: transfer_accuracy(SMALL, np.ones(4), [1.0], 0.1), "w_target must have shape"),
    "labels of a sample": (lambda: fit_sample_svm(np.ones((2, 1)), np.array([0, 1]), lam=1.0), "y must hold -1"),
    "lam of a sample": (lambda: fit_sample_svm(*SMALL.sample(9, np.random.default_rng(0)), lam=0.0), "lam must be in"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_in_one_sentence(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)


def test_unknown_names_list_the_known_ones() -> None:
    rule = LinearRule.pooled(1.0, 1.0, 3)
    with pytest.raises(InputError, match=r'unknown norm "l3".*known: l2, linf'):
        PAPER.rule_accuracy(rule, 0.1, "l3")
    with pytest.raises(InputError, match=r'unknown adversary "strong".*known: full, weak'):
        PAPER.rule_accuracy(rule, 0.1, "linf", "strong")
