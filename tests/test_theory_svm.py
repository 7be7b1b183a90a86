"""The population SVMs: closed forms against integrals, optima against a general solver, Theorem 2.2 line by line."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

from nofreelunch.errors import InputError
from nofreelunch.theory import GaussianModel, SvmSolution, fit_svm, zero_from
from nofreelunch.theory.hinge import Hinge, excess, hazard, log_ratio, psi

pytestmark = pytest.mark.usefixtures("unchecked")

PAPER = GaussianModel(d=1000, eta=4 / math.sqrt(1000))


def dense_loss(model: GaussianModel, w: np.ndarray, lam: float, eps: float) -> float:
    """The objective of `fit_svm` at any d + 1 weights, of any sign: the hinge is that of two normal distributions."""
    mean, std = model.eta * w[1:].sum(), np.linalg.norm(w[1:])
    hinge = 0.0
    for a, weight in ((1, model.p), (-1, 1 - model.p)):
        loss = 1 - a * w[0] - mean + eps * np.abs(w).sum()
        hinge += weight * (loss * norm.cdf(loss / std) + std * norm.pdf(loss / std) if std > 0 else max(0.0, loss))
    return float(hinge + lam / 2 * (w @ w))


def hinge_of(model: GaussianModel, eps: float) -> Hinge:
    return Hinge(max(model.p, 1 - model.p), eps, (model.eta - eps) * math.sqrt(model.d))


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_the_expected_hinge_is_its_integral(eps: float) -> None:
    model, w1, v = GaussianModel(d=4, eta=0.3, p=0.8), 0.7, 0.9
    root = math.sqrt(model.d)
    integral = sum(
        weight
        * quad(
            lambda z, a=a: norm.pdf(z, model.mu) * max(0.0, 1 - a * w1 - v * z + eps * (w1 + v * root)),
            -9, 11, points=[(1 - a * w1 + eps * (w1 + v * root)) / v],
        )[0]
        for a, weight in ((1, 0.8), (-1, 0.2))
    )  # fmt: skip
    assert hinge_of(model, eps).value(w1, v) == pytest.approx(integral, abs=1e-9)
    dense = np.array([w1, *[v / root] * 4])
    assert dense_loss(model, dense, 0.0, eps) == pytest.approx(integral, abs=1e-9)


@given(st.floats(0.5, 0.95), st.floats(0, 0.9), st.floats(-2, 6), st.floats(0, 3), st.floats(0.05, 3))
@settings(max_examples=60, deadline=None)
def test_slopes_are_derivatives(p: float, eps: float, nu: float, w1: float, v: float) -> None:
    hinge, h = Hinge(p, eps, nu), 1e-6
    slopes = hinge.slopes(w1, v)
    unit = math.exp(slopes.log_unit)
    by_w1 = (hinge.value(w1 + h, v) - hinge.value(w1 - h, v)) / (2 * h)
    by_v = (hinge.value(w1, v + h) - hinge.value(w1, v - h)) / (2 * h)
    assert slopes.w1 * unit == pytest.approx(by_w1, abs=1e-7)
    assert slopes.v * unit == pytest.approx(by_v, abs=1e-7)


@given(st.floats(-30, 8), st.floats(0, 10))
@settings(max_examples=60, deadline=None)
def test_normal_quantities_keep_their_digits(t: float, gap: float) -> None:
    assert hazard(t) == pytest.approx(math.exp(norm.logpdf(t) - norm.logcdf(t)), rel=1e-11)
    assert psi(t) == pytest.approx(quad(norm.cdf, -np.inf, t, epsabs=0)[0], rel=1e-7)
    assert log_ratio(t, gap) == pytest.approx(norm.logcdf(t - gap) - norm.logcdf(t), rel=1e-10, abs=1e-12)
    assert excess(-300 * (1 + 1e-9)) == pytest.approx(excess(-300 * (1 - 1e-9)), rel=1e-8)
    assert excess(-1e6) == pytest.approx(1e-6, rel=1e-11)


CASES = [
    (PAPER, None, 0.0),
    (PAPER, 0.1, 0.0),
    (PAPER, 0.1, 0.07),
    (PAPER, 0.5, 0.3),
    (GaussianModel(d=5, eta=0.6), 0.02, 0.2),
    (GaussianModel(d=5, eta=0.6, p=0.95), 0.3, 0.55),
    (GaussianModel(d=5, eta=0.9, p=0.6), 0.2, 0.5),
    (GaussianModel(d=1, eta=0.02), 0.05, 0.0),
    (GaussianModel(d=3, eta=0.4, p=0.2), 0.1, 0.1),
    (GaussianModel(d=3, eta=0.1, p=0.5), 0.1, 0.0),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_solution_is_the_optimum_over_all_the_weights(case: int) -> None:
    """Lemma C.1 included: nothing is gained by unequal weak weights, or by negative ones."""
    model, lam, eps = CASES[case]
    solution = fit_svm(model, lam, eps)
    best = solution.objective
    assert dense_loss(model, solution.weights(model.d), solution.lam, eps) == pytest.approx(best, abs=1e-12)
    rng = np.random.default_rng(case)
    for scale in 10.0 ** rng.uniform(-5, 0.5, 200):
        w = solution.weights(model.d) + scale * rng.normal(size=model.d + 1) / math.sqrt(model.d)
        assert dense_loss(model, w, solution.lam, eps) >= best - 1e-13
    spread = np.array([1.0, *[1 / math.sqrt(model.d)] * model.d])

    def loss(u: np.ndarray) -> float:
        return dense_loss(model, np.repeat(u, [1, model.d]) * spread, solution.lam, eps)

    for start in ([0.1, 0.1], [1.5, 0.5], [-0.5, 1.0], [0.3, -0.6]):
        general = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
        assert general.fun >= best - 1e-12
    assert general.fun == pytest.approx(best, abs=1e-7)


def norm_of(solution: SvmSolution) -> float:
    return math.hypot(solution.w1, solution.v)


models = st.builds(
    lambda d, mu, p: GaussianModel(d, mu / math.sqrt(d), p),
    st.integers(1, 10**8), st.floats(0, 100), st.floats(0.02, 0.98),
)  # fmt: skip


@given(models, st.floats(0, 2), st.floats(-6, 3))
@settings(max_examples=12, deadline=None)
def test_the_certificate_at_any_lam(model: GaussianModel, ratio: float, log_lam: float) -> None:
    eps = ratio * model.eta
    solution = fit_svm(model, 10**log_lam, eps)
    assert solution.residual <= 1e-9
    assert solution.v >= 0
    assert solution.w1 * (model.p - 0.5) >= 0
    if eps >= zero_from(model).v:
        assert solution.v == 0
    if eps >= zero_from(model).w1:
        assert solution.w1 == 0


@given(models, st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_unit_norm_or_a_reason(model: GaussianModel, ratio: float) -> None:
    eps = ratio * model.eta
    try:
        solution = fit_svm(model, eps=eps)
    except InputError:
        with pytest.raises(InputError, match=r"no lam gives \|w\|_2 = 1"):
            fit_svm(model, eps=eps)
        assert norm_of(fit_svm(model, 1e-9, eps)) < 1
        return
    assert norm_of(solution) == pytest.approx(1, abs=1e-12)
    assert solution.residual <= 1e-9
    if solution.lam > 1e-9:  # at that lam it is the optimum also for those who did not ask for unit norm
        again = fit_svm(model, solution.lam, eps)
        assert (again.w1, again.v) == pytest.approx((solution.w1, solution.v), abs=1e-6)


def test_a_lam_below_the_smallest_float_is_given_by_its_logarithm() -> None:
    solution = fit_svm(GaussianModel(d=10**8, eta=0.1))
    assert solution.lam == 0
    # lam = -slope in v = Phi(t) (nu - hazard(t)) at t = 1 - 1000; log10 Phi(-999) = -216706.2...
    assert solution.log10_lam == pytest.approx(norm.logcdf(-999) / math.log(10), rel=1e-4)
    assert fit_svm(PAPER).log10_lam == pytest.approx(math.log10(fit_svm(PAPER).lam), abs=1e-12)


def test_closed_forms_known_by_hand() -> None:
    robust = fit_svm(PAPER, 2.0, 0.2)  # eps >= eta: w1 = (2p - 1 - eps) / lam
    assert (robust.w1, robust.v) == (pytest.approx(0.1, abs=1e-15), 0.0)
    assert robust.objective == pytest.approx(1 - 0.2 * 0.1 + 1.0 * 0.1**2, abs=1e-15)
    kinked = fit_svm(PAPER, 1e-3, 0.2)  # ... but never beyond 1 / (1 - eps)
    assert (kinked.w1, kinked.v) == (1 / 0.8, 0.0)
    assert kinked.objective == pytest.approx(0.3 * (1 + 1.2 / 0.8) + 5e-4 / 0.64, abs=1e-15)
    unit = fit_svm(PAPER, eps=0.2)
    assert (unit.w1, unit.v, unit.lam) == (1.0, 0.0, pytest.approx(0.2, abs=1e-15))
    for eta in (0.0, 5e-324, 1e-200):
        nothing = fit_svm(GaussianModel(d=9, eta=eta, p=0.5), 0.1)
        assert (nothing.w1, nothing.v, nothing.objective) == (0.0, 0.0, 1.0)
    fragile = GaussianModel(d=10_000, eta=0.9)  # eps >= 2p - 1 but below eta: z alone, v from its own equation
    alone = fit_svm(fragile, 0.5, 0.5)
    t = 1 / alone.v - 40
    assert alone.w1 == 0
    assert norm.pdf(t) - 40 * norm.cdf(t) + 0.5 * alone.v == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("p", [0.6, 0.7, 0.9])
def test_the_weak_weights_vanish_from_eps_eta_and_w1_from_2p_minus_1(p: float) -> None:
    """Lemma C.5 says 2 eta, and nothing about w1."""
    model, threshold = GaussianModel(d=1000, eta=0.15, p=p), 2 * p - 1
    assert zero_from(model) == (pytest.approx(threshold), 0.15)
    for lam in (0.9, 2.0, None if threshold > 0.4 else 3.0):
        assert fit_svm(model, lam, 0.15).v == 0
        assert fit_svm(model, lam, 0.15 * (1 - 1e-3)).v > 0
    for lam in (0.1, 0.9):
        assert fit_svm(model, lam, threshold).w1 == pytest.approx(0, abs=1e-14)
        assert fit_svm(model, lam, threshold * (1 - 1e-3)).w1 > 1e-5
    # also where the weak features are strong enough to stay
    strong = GaussianModel(d=1000, eta=0.95, p=p)
    assert fit_svm(strong, 0.5, threshold * (1 + 1e-9)).w1 == 0
    assert fit_svm(strong, 0.5, threshold * (1 - 1e-3)).w1 > 0
    assert fit_svm(strong, 0.5, threshold * (1 + 1e-9)).v > 0


def test_at_small_lam_the_weak_weights_may_vanish_a_little_earlier() -> None:
    """Where w1 sits on the kink 1 / (1 - eps), v = 0 can be optimal at eps < eta: no other weights are better."""
    model, eps = GaussianModel(d=1, eta=0.2), 0.15
    solution = fit_svm(model, 1e-3, eps)
    assert (solution.w1, solution.v) == (1 / 0.85, 0.0)
    assert solution.residual == 0
    for angle in np.linspace(0, 2 * np.pi, 200):
        for scale in (1e-6, 1e-3, 0.1):
            w = np.array([solution.w1 + scale * math.cos(angle), scale * math.sin(angle)])
            assert dense_loss(model, w, 1e-3, eps) >= solution.objective - 1e-16


def accuracies(model: GaussianModel, solution: SvmSolution, eps: float) -> tuple[float, float]:
    rule = solution.rule(model.d)
    return model.rule_accuracy(rule, 0.0), model.rule_accuracy(rule, eps)


@pytest.mark.parametrize("d", [17, 1000, 10**8])
def test_theorem_2_2_standard_training(d: int) -> None:
    """First half, at eta = 4 / sqrt(d): over 99 % clean, under 1 % from eps = 2 eta on; v >= 1 / sqrt(2) (C.2)."""
    model = GaussianModel(d, 4 / math.sqrt(d))
    solution = fit_svm(model)
    clean, robust = accuracies(model, solution, 2 * model.eta)
    assert clean > 0.99
    assert robust < 0.01
    assert solution.v >= 1 / math.sqrt(2)


def test_theorem_2_2_adversarial_training_holds_from_eta_to_2p_minus_1() -> None:
    for eps in (PAPER.eta, 2 * PAPER.eta, 0.399):
        assert accuracies(PAPER, fit_svm(PAPER, eps=eps), 0.999) == (pytest.approx(0.7), pytest.approx(0.7))


@pytest.mark.parametrize("eps", [0.4, 0.5, 0.99])
def test_theorem_2_2_adversarial_training_fails_from_2p_minus_1(eps: float) -> None:
    """There w = 0 at every lam, which is right about nothing, and no lam gives unit norm."""
    for lam in (1e-9, 1e-3, 1.0):
        solution = fit_svm(PAPER, lam, eps)
        assert norm_of(solution) < 1e-6
        assert solution.residual <= 1e-9
    with pytest.raises(InputError, match="w = 0 for every lam"):
        fit_svm(PAPER, eps=0.41)


@pytest.mark.parametrize("eps", [2 * PAPER.eta, 0.4, 0.6, 0.99])
def test_theorem_2_2_holds_if_unit_norm_is_a_hard_constraint(eps: float) -> None:
    """Over the whole circle w1^2 + v^2 = 1 the loss is least at w = (1, 0), from eps = 2 eta on."""
    spread = np.array([1.0, *[1 / math.sqrt(1000)] * 1000])
    angles = np.linspace(-math.pi, math.pi, 721)
    losses = [dense_loss(PAPER, np.repeat([math.cos(t), math.sin(t)], [1, 1000]) * spread, 0.0, eps) for t in angles]
    assert angles[int(np.argmin(losses))] == pytest.approx(0, abs=1e-12)
    assert min(losses) == pytest.approx(0.7 * eps + 0.3 * (2 + eps), abs=1e-12)


def test_a_hard_constraint_does_not_help_where_the_weak_features_cost_less_than_x_1() -> None:
    """That asks for (eps - eta) sqrt(d) >= eps - (2p - 1): eps >= 2 eta and mu >= 1 give it, eps = eta does not."""
    model, eps = GaussianModel(d=100, eta=0.5), 0.5
    assert dense_loss(model, np.array([0.0, *[0.1] * 100]), 0.0, eps) < dense_loss(
        model, np.array([1.0, *[0.0] * 100]), 0.0, eps
    )


def test_the_window_of_theorem_2_2_is_empty_up_to_d_400() -> None:
    for d in (1, 100, 400):
        assert 2 * 4 / math.sqrt(d) >= zero_from(GaussianModel(d, 4 / math.sqrt(d))).w1 - 1e-12
    assert 2 * 4 / math.sqrt(401) < zero_from(GaussianModel(401, 4 / math.sqrt(401))).w1


def test_lemma_c_4_says_towards_y_and_means_minus_y() -> None:
    """Moved towards y by 2 eta, z would have mean 3 mu, and the SVM would never err."""
    w = fit_svm(PAPER).weights(1000)
    x, y = PAPER.sample(4000, np.random.default_rng(0))
    shift = 2 * PAPER.eta * y[:, None] * np.array([0.0, *[1.0] * 1000])
    assert ((x + shift) @ w * y > 0).mean() > 0.999
    assert ((x - shift) @ w * y > 0).mean() < 0.01


def test_lemma_c_5_has_its_maximum_outside_the_expectation_and_a_wrong_mean() -> None:
    """Its first display lets one delta serve all examples. Read so, weak weights would never vanish: a small v has the
    loss 1 - mu v, whatever eps is. With the maximum inside it has 1 + (eps - eta) sqrt(d) v: a mean of eps - eta for a
    weak feature, where the text says 2 eta - eps.
    """
    eps, v, root = 2 * PAPER.eta, 1e-3, math.sqrt(1000)
    outside = max(
        sum(v * psi((1 - v * (PAPER.mu + y * t)) / v) for y in (1, -1)) / 2 for t in np.linspace(-1, 1, 21) * eps * root
    )
    inside = hinge_of(PAPER, eps).value(0.0, v)
    assert outside == pytest.approx(1 - PAPER.mu * v, abs=1e-12)
    assert inside == pytest.approx(1 + (eps - PAPER.eta) * root * v, abs=1e-12)
    assert outside < 1 < inside


BAD = {
    "lam": (lambda: fit_svm(PAPER, 0.0), "lam must be in"),
    "huge lam": (lambda: fit_svm(PAPER, 1e101), "lam must be in"),
    "eps": (lambda: fit_svm(PAPER, 0.1, -0.1), "eps must be in"),
    "no lam at all": (lambda: fit_svm(GaussianModel(9, 0.0, 0.5)), "w = 0 for every lam"),
    "never long enough": (lambda: fit_svm(GaussianModel(1, 0.1, 0.5)), "shorter for every lam"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_in_one_sentence(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)
