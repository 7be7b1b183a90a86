"""The exact trade-off, against linear programs over all classifiers on a grid, and what Theorem 2.1 says about it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import brentq, linprog, minimize_scalar
from scipy.stats import norm

from nofreelunch.errors import InputError
from nofreelunch.theory import GaussianModel, best_robust_accuracy, frontier, robust_accuracy_bound, summary
from nofreelunch.theory.linear import LinearRule

pytestmark = pytest.mark.usefixtures("unchecked")

PAPER = GaussianModel(d=1000, eta=4 / math.sqrt(1000))


class Game:
    """The best randomised classifier that is constant on the cells of a grid, as a linear program.

    The grid cuts `dims` features N(y mean, 1) into cells; for each sign of x_1 there is a table f of P(answer +1).
    Nothing is assumed about f. An adversary that moves by `reach` cells lands exactly on cells, so the program is exact
    for these classifiers, and its value can only lie below the best over all classifiers.
    """

    def __init__(self, p: float, mean: float, dims: int, width: float, cells: int) -> None:
        self.p, self.dims = p, dims
        edges = width * (np.arange(1, cells) - cells / 2)
        axis = {y: np.diff(norm.cdf(edges, y * mean), prepend=0, append=1) for y in (1, -1)}
        self.mass = {y: math.prod(np.ix_(*[axis[y]] * dims)) for y in (1, -1)}
        self.size = 0
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []  # x[first] <= x[second]

    def variables(self) -> np.ndarray:
        shape = self.mass[1].shape
        self.size += math.prod(shape)
        return np.arange(self.size - math.prod(shape), self.size).reshape(shape)

    def full(self, f: np.ndarray, reach: int, y: int) -> np.ndarray:
        """P(answer +1) after the worst move of up to `reach` cells along each axis, for label y."""
        for axis in range(self.dims):
            moved, n = self.variables(), f.shape[axis]
            for step in range(-reach, reach + 1):
                pair = moved.ravel(), f.take(np.clip(np.arange(n) + step, 0, n - 1), axis).ravel()
                self.rows.append(pair if y > 0 else pair[::-1])
            f = moved
        return f

    def weak(self, f: np.ndarray, reach: int, y: int) -> np.ndarray:
        """P(answer +1) after the fixed move by -y reach cells along each axis."""
        for axis, n in enumerate(f.shape):
            f = f.take(np.clip(np.arange(n) - y * reach, 0, n - 1), axis)
        return f

    def best(self, reach: int, clean_accuracy: float, adversary: str) -> float:
        move = {"full": self.full, "weak": self.weak}[adversary]
        answers = {a: self.variables() for a in (1, -1)}
        cases = [(a, y, y * (self.p if a == y else 1 - self.p) / 2 * self.mass[y]) for a in (1, -1) for y in (1, -1)]
        clean = [(answers[a], weight) for a, _, weight in cases]
        robust = [(move(answers[a], reach, y), weight) for a, y, weight in cases]
        floor, gain = (
            sum(np.bincount(at.ravel(), weight.ravel(), self.size) for at, weight in terms) for terms in (clean, robust)
        )
        low, high = (np.concatenate([pair[i] for pair in self.rows] or [np.empty(0, int)]) for i in (0, 1))
        row, one = np.arange(len(low)), np.ones(len(low))
        shape = (len(row), self.size)
        order = sparse.coo_array((one, (row, low)), shape) - sparse.coo_array((one, (row, high)), shape)
        table = sparse.vstack([order, sparse.coo_array(-floor[None])])
        limits = np.append(np.zeros(len(row)), 0.5 - clean_accuracy)  # 0.5 is what "always -1" has
        best = linprog(-gain, A_ub=table, b_ub=limits, bounds=(0, 1), method="highs")
        assert best.status == 0
        return 0.5 - float(best.fun)


@pytest.mark.parametrize("adversary", ["full", "weak"])
@pytest.mark.parametrize("p", [0.55, 0.7])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.5, 2.0, 2.5])
def test_no_classifier_of_x_1_and_z_on_a_grid_is_better(ratio: float, p: float, adversary: str) -> None:
    """mu = 1.2, eps = ratio * eta; the grid's classifiers come within about the squared width of a cell of the best."""
    model, width = GaussianModel(d=16, eta=0.3, p=p), 0.12
    clean, _ = frontier(model, ratio * 0.3, adversary, points=2)
    for share in (0.4, 0.8):
        at = (1 - share) * clean[0] + share * clean[-1]
        exact = best_robust_accuracy(model, at, ratio * 0.3, adversary)
        grid = Game(p, 1.2, 1, width, 120).best(round(ratio * 1.2 / width), at - 1e-9, adversary)
        assert exact - 8e-4 <= grid <= exact + 1e-7


@pytest.mark.parametrize("ratio", [0.8, 1.6, 2.4])
def test_no_classifier_of_all_the_features_is_better(ratio: float) -> None:
    """d = 2: tables over (x_1, x_2, x_3), so that the classifier may look at more than z. It gains nothing."""
    model, width = GaussianModel(d=2, eta=0.375), 0.3
    at = frontier(model, ratio * 0.375, points=2).clean_accuracy.mean()
    exact = best_robust_accuracy(model, at, ratio * 0.375)
    grid = Game(0.7, 0.375, 2, width, 26).best(round(ratio * 0.375 / width), at, "full")
    assert exact - 2e-3 <= grid <= exact + 1e-7


@pytest.mark.parametrize(("ratio", "p"), [(1.3, 0.7), (1.7, 0.6), (2.0, 0.7), (2.9, 0.9)])
def test_the_fixed_shift_by_the_dual_of_its_program(ratio: float, p: float) -> None:
    """R(A) = min over lam of q + int max(0, g + lam c) dz + lam (q - A): c, g are what answering +1 at z brings."""
    model, z, q = GaussianModel(d=16, eta=0.3, p=p), np.linspace(-12, 12, 24_001), 1 - p
    shifted = 1.2 - ratio * 1.2
    c, g = (p * norm.pdf(z, mean) - q * norm.pdf(z, -mean) for mean in (1.2, shifted))
    clean, robust = frontier(model, ratio * 0.3, "weak", points=2)
    assert robust[0] == pytest.approx(q + np.maximum(0, g).sum() * 0.001, abs=2e-7)
    assert clean[0] == pytest.approx(q + c[g > 0].sum() * 0.001, abs=1e-3)
    for share in (0.2, 0.9):
        at = (1 - share) * clean[0] + share * clean[1]

        def dual(lam: float, at: float = at) -> float:
            return q + float(np.maximum(0, g + lam * c).sum()) * 0.001 + lam * (q - at)

        exact = best_robust_accuracy(model, at, ratio * 0.3, "weak")
        best = minimize_scalar(dual, bounds=(0, 100), method="bounded", options={"xatol": 1e-9})
        assert exact == pytest.approx(best.fun, abs=2e-7)


@pytest.mark.parametrize(("mu", "ratio", "p"), [(0.3, 2.3, 0.6), (1.2, 2.5, 0.7), (0.8, 4.0, 0.9)])
def test_beyond_2_eta_the_frontier_is_the_hull_of_the_half_lines(mu: float, ratio: float, p: float) -> None:
    """The best mixture of x_1 alone, (p, p), with one h_c: searched for among many c."""
    model = GaussianModel(d=100, eta=mu / 10, p=p)
    eps = ratio * model.eta
    c = math.log(p / (1 - p)) / (2 * mu) + np.geomspace(1e-6, 8, 400_001)
    clean = p * norm.cdf(mu + c) + (1 - p) * norm.cdf(mu - c)
    m = (ratio - 1) * mu
    robust = p * norm.cdf(c - m) + (1 - p) * norm.cdf(-m - c)
    for share in (0.2, 0.7, 0.99):
        at = p + share * (clean[0] - p)
        reach = clean > at
        mixed = p + (robust[reach] - p) * (at - p) / (clean[reach] - p)
        exact = best_robust_accuracy(model, at, eps)
        assert mixed.max() - 1e-12 <= exact <= mixed.max() + 2e-6


def rate_at(model: GaussianModel, c: float, eps: float) -> tuple[float, float]:
    """(clean, robust) of h_c = sign(z + c sign(x_1)), by the closed form for linear classifiers with x_1 untouched."""
    rule = LinearRule.pooled(c, 1.0, model.d)
    return model.rule_accuracy(rule, 0.0), model.rule_accuracy(rule, eps, adversary="weak")


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_up_to_2_eta_linear_classifiers_of_the_sign_of_x_1_and_z_are_the_best(ratio: float) -> None:
    eps = ratio * PAPER.eta
    most_clean = math.log(7 / 3) / 8
    most_robust = most_clean / (1 - ratio) if ratio < 1 else 6.0
    for c in np.linspace(most_clean, most_robust, 7):
        clean, robust = rate_at(PAPER, c, eps)
        assert best_robust_accuracy(PAPER, clean, eps) == pytest.approx(robust, abs=1e-7)


def test_limits_known_by_hand() -> None:
    bayes = PAPER.rule_accuracy(PAPER.bayes(), 0.0)
    for adversary in ("full", "weak"):
        for at in (0.2, 0.9, bayes):  # no adversary: the most accurate classifier is the most robust
            assert best_robust_accuracy(PAPER, at, 0.0, adversary) == pytest.approx(bayes, abs=1e-12)
    for eps in (PAPER.eta, 1.5 * PAPER.eta, 3 * PAPER.eta, 0.999):  # x_1 alone
        assert best_robust_accuracy(PAPER, 0.7, eps) == pytest.approx(0.7, abs=1e-12)
        assert best_robust_accuracy(PAPER, 0.0, eps) == pytest.approx(0.7, abs=1e-12)
    coin = GaussianModel(d=1000, eta=PAPER.eta, p=0.5)
    for at in (0.5, 0.8, 0.99):  # without x_1, eps = 2 eta swaps the labels: every right answer is paid for
        assert best_robust_accuracy(coin, at, 2 * coin.eta) == pytest.approx(1 - at, abs=1e-12)
        assert best_robust_accuracy(coin, 1 - at, 2 * coin.eta, "weak") == pytest.approx(at, abs=1e-12)
    only_x1 = GaussianModel(d=5, eta=0.0)  # z says nothing, but a shift of z would
    assert best_robust_accuracy(only_x1, 0.7, 0.5) == pytest.approx(0.7, abs=1e-12)
    assert best_robust_accuracy(only_x1, 0.5, 20.0, "weak") == pytest.approx(1.0, abs=1e-12)
    hardly = GaussianModel(d=1000, eta=0.001)  # z adds less than rounding to what x_1 tells
    assert best_robust_accuracy(hardly, 0.7, 0.5, "weak") >= 0.7


@pytest.mark.parametrize(
    ("adversary", "eta", "p"), [("full", 1e-9, 0.5), ("full", 0.2, 0.999), ("full", 0.2, 0.6), ("weak", 0.2, 0.999)]
)
def test_the_frontier_is_continuous_in_eps(adversary: str, eta: float, p: float) -> None:
    """Where the formulas change, at eta and 2 eta."""
    model = GaussianModel(d=100, eta=eta, p=p)
    at = (p + model.rule_accuracy(model.bayes(), 0.0)) / 2
    for eps in (eta, 2 * eta):
        low, mid, high = (best_robust_accuracy(model, at, eps * (1 + step), adversary) for step in (-1e-12, 0, 1e-12))
        assert low == pytest.approx(mid, abs=1e-9)
        assert high == pytest.approx(mid, abs=1e-9)


@pytest.mark.parametrize("mu", [4.0, 8.0, 10.0])
def test_a_tiny_robust_accuracy_keeps_its_digits(mu: float) -> None:
    """The most accurate classifier's, at eps = 2 eta: down to 1e-23."""
    model, c = GaussianModel(d=10_000, eta=mu / 100), math.log(7 / 3) / (2 * mu)
    exact = 0.7 * norm.cdf(c - mu) + 0.3 * norm.cdf(-c - mu)
    assert frontier(model, 2 * model.eta).robust_accuracy[-1] == pytest.approx(exact, rel=1e-9, abs=0)
    error = 0.7 * norm.cdf(-mu - c) + 0.3 * norm.cdf(c - mu)
    theorem = summary(10_000, model.eta, 0.7, 2 * model.eta)["theorem_2_1"]
    assert theorem["bound_at_most_clean_accuracy"] == pytest.approx(7 / 3 * error, rel=1e-9, abs=0)


def test_the_frontier_is_exact_a_few_roundings_below_a_clean_accuracy_of_1() -> None:
    """Where the error of h_c is 1, 2, 4, ... units of float64."""
    model, mu, m, p = GaussianModel(d=10_000, eta=0.097, p=0.9), 9.7, -0.485, 0.9

    def robust(error: float) -> float:
        c = brentq(lambda c: p * norm.cdf(-mu - c) + (1 - p) * norm.cdf(c - mu) - error, 0, 3, xtol=1e-13)
        return float(p * norm.cdf(c - m) + (1 - p) * norm.cdf(-m - c))

    for units in (1, 2, 4, 16, 40):
        error = units * 2.0**-53
        assert best_robust_accuracy(model, 1 - error, 0.95 * model.eta) == pytest.approx(robust(error), rel=1e-9)


@given(st.floats(5, 10), st.floats(0.3, 3), st.sampled_from([0.51, 0.7, 0.99]), st.sampled_from(["full", "weak"]))
@settings(max_examples=25, deadline=None)
def test_the_frontier_never_rises(mu: float, ratio: float, p: float, adversary: str) -> None:
    clean, robust = frontier(GaussianModel(d=10_000, eta=mu / 100, p=p), ratio * mu / 100, adversary)
    assert (np.diff(clean) >= 0).all()
    assert (np.diff(robust) <= 0).all()


def test_the_far_hull_for_a_large_eps() -> None:
    """eps far above 2 eta: z can always be hidden, so the best mix x_1 alone (p, p) with Bayes, who is never robust."""
    most = PAPER.rule_accuracy(PAPER.bayes(), 0.0)
    for share in (0.0, 0.3, 1.0):
        at = 0.7 + share * (most - 0.7)
        assert best_robust_accuracy(PAPER, at, 0.99) == pytest.approx(0.7 * (1 - share), abs=1e-9)


settings_of_the_model = st.builds(GaussianModel, d=st.integers(1, 10**6), eta=st.floats(0, 1), p=st.floats(0.02, 0.98))


@given(settings_of_the_model, st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_laws_of_the_frontier(model: GaussianModel, eps: float, other: float, u: float, v: float) -> None:
    most = model.rule_accuracy(model.bayes(), 0.0)
    low, high = sorted((u * most, v * most))
    less, more = (best_robust_accuracy(model, at, eps) for at in (high, low))
    assert 0 <= less <= more + 1e-12 <= 1 + 1e-12
    assert less <= most + 1e-12
    middle = best_robust_accuracy(model, (low + high) / 2, eps)
    assert middle >= (less + more) / 2 - 1e-9  # mixing two classifiers is a classifier
    small, large = sorted((eps, other))
    assert best_robust_accuracy(model, high, large) <= best_robust_accuracy(model, high, small) + 1e-9
    mirrored = GaussianModel(model.d, model.eta, 1 - model.p)
    inside = 0.98 * high  # at the very end the slope is infinite, and rounding shows
    assert best_robust_accuracy(mirrored, inside, eps) == pytest.approx(
        best_robust_accuracy(model, inside, eps), abs=1e-9
    )
    if eps >= 2 * model.eta:
        assert less <= robust_accuracy_bound(1 - high, model.p) + 1e-12


@given(settings_of_the_model, st.floats(0, 3), st.floats(-3, 3), st.floats(0, 2), st.sampled_from(["full", "weak"]))
@settings(max_examples=10, deadline=None)
def test_no_linear_classifier_lies_above_the_frontier(
    model: GaussianModel, eps: float, w1: float, v: float, adversary: str
) -> None:
    eps = eps / 4 if adversary == "full" else eps
    rule = LinearRule.pooled(w1, v, model.d)
    robust = model.rule_accuracy(rule, eps, adversary=adversary)
    at = max(0.0, model.rule_accuracy(rule, 0.0) - 1e-9)
    assert robust <= best_robust_accuracy(model, at, eps, adversary) + 1e-9


def test_frontier_lists_the_best_robust_accuracies() -> None:
    for adversary, eps in (("full", 0.2), ("weak", 0.3)):
        curve = frontier(PAPER, eps, adversary, points=4)
        exact = [best_robust_accuracy(PAPER, float(at), eps, adversary) for at in curve.clean_accuracy]
        np.testing.assert_allclose(curve.robust_accuracy, exact, atol=1e-12)
        assert curve.clean_accuracy[-1] == pytest.approx(PAPER.rule_accuracy(PAPER.bayes(), 0.0), abs=1e-12)
        assert (np.diff(curve.robust_accuracy) < 0).all()


def test_theorem_2_1_is_nearly_tight_for_every_attainable_clean_accuracy() -> None:
    """At eps = 2 eta the frontier touches the bound at clean accuracy p, and stays within 4/3 Phi(-mu - c) of it."""
    clean, robust = frontier(PAPER, 2 * PAPER.eta)
    bound = np.array([robust_accuracy_bound(1 - at, 0.7) for at in clean])
    gap = bound - robust
    assert gap[0] == pytest.approx(0, abs=1e-15)
    assert (gap[1:] > -1e-15).all()
    assert gap.max() == pytest.approx(4 / 3 * norm.cdf(-4 - math.log(7 / 3) / 8), rel=1e-6)
    assert gap.max() < 3e-5


def test_theorem_2_1_is_false_against_a_literal_shift_beyond_2_eta() -> None:
    """Appendix B's adversary gives itself away: features shifted by 3 eta look like nothing that was ever clean."""
    for ratio, least in ((2.5, 0.8), (4.0, 0.999)):
        robust = best_robust_accuracy(PAPER, 0.9, ratio * PAPER.eta, "weak")
        assert robust > least > 3 * robust_accuracy_bound(0.1, 0.7)
        assert best_robust_accuracy(PAPER, 0.9, ratio * PAPER.eta, "full") <= robust_accuracy_bound(0.1, 0.7)
    at_2_eta = best_robust_accuracy(PAPER, 0.9, 2 * PAPER.eta, "weak")
    assert at_2_eta == pytest.approx(best_robust_accuracy(PAPER, 0.9, 2 * PAPER.eta), abs=1e-9)


def test_between_eta_and_2_eta_nature_allows_both() -> None:
    """For large mu one classifier is nearly perfectly accurate and as robust as x_1: the loss is the training's."""
    model = GaussianModel(d=10_000, eta=0.16)  # mu = 16
    assert best_robust_accuracy(model, 0.9999, 1.5 * model.eta) > 0.69999
    assert best_robust_accuracy(PAPER, 0.99, 1.1 * PAPER.eta) > 0.67
    assert best_robust_accuracy(model, 0.9999, 2 * model.eta) < 0.001


BAD = {
    "more accurate than possible": (
        lambda: best_robust_accuracy(PAPER, 0.99999, 0.1),
        "clean_accuracy must be at most",
    ),
    "clean_accuracy": (lambda: best_robust_accuracy(PAPER, 1.5, 0.1), "clean_accuracy must be in"),
    "eps hides x_1": (lambda: best_robust_accuracy(PAPER, 0.9, 1.0), 'eps must be in [0, 1) for adversary "full"'),
    "negative eps": (lambda: frontier(PAPER, -0.1), "eps must be in"),
    "adversary": (lambda: frontier(PAPER, 0.1, "literal"), "known: full, weak"),
    "points": (lambda: frontier(PAPER, 0.1, points=1), "points must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_in_one_sentence(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)
