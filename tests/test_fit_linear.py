"""Robust linear training: the exact adversary, the certified optimum, the paper's recipe, and the threshold of eps."""

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.special import expit

import nofreelunch as nfl
from nofreelunch.errors import InputError
from nofreelunch.training.linear import Descent, LinearFit, NoOptimum, fit_linear
from nofreelunch.training.linear_problem import Problem, split
from nofreelunch.training.linear_threshold import pixel_use, vanishing_eps

BOXES = [(0, 1), None]
Examples = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> Examples:
    """All training images 5 v 7."""
    split = nfl.load_data("mnist-5v7").train
    return split.images().flatten(1).double().numpy(), split.y.double().numpy()


@pytest.fixture(scope="module")
def some(digits: Examples) -> Examples:
    return digits[0][:1200], digits[1][:1200]


def noisy(n: int = 60, d: int = 6, seed: int = 0) -> Examples:
    """Two classes that overlap, some pixels at the ends of the box."""
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(n) % 3 == 0, 1.0, -1.0)
    return np.clip(0.5 + 0.25 * y[:, None] * rng.uniform(-1, 1, d) + rng.normal(0, 0.4, (n, d)), 0, 1), y


def plain_margins(w: np.ndarray, b: float, x: np.ndarray, y: np.ndarray, eps: float, box: tuple | None) -> np.ndarray:
    """y (w.x + b) - sum_j |w_j| min(eps, room in the harmful direction): the margin as a reader would write it."""
    harm_is_down = y[:, None] * w > 0
    room = np.full_like(x, np.inf) if box is None else np.where(harm_is_down, x - box[0], box[1] - x)
    return y * (x @ w + b) - np.minimum(eps, room) @ np.abs(w)


def plain_loss(fit_w: np.ndarray, b: float, x: np.ndarray, y: np.ndarray, eps: float, box: tuple | None) -> float:
    return float(np.logaddexp(0, -plain_margins(fit_w, b, x, y, eps, box)).mean())


def fitted(w: list[float], b: float) -> LinearFit:
    return LinearFit(np.array(w), b, 0.0, 0.0, 0.0, (0, 1), "optimum", 0.0)


# the exact adversary


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("eps", [0.0, 0.13, 0.7])
def test_margins_are_the_worst_corner(eps: float, box: tuple | None) -> None:
    x, y = noisy(20, 4)
    fit = fitted([1.5, -0.7, 0.0, 2.0], -0.4)
    corners = [x + eps * np.array(signs) for signs in itertools.product([-1, 1], repeat=4)]
    corners = corners if box is None else [np.clip(z, *box) for z in corners]
    worst = np.min([y * (z @ fit.w + fit.b) for z in corners], axis=0)
    np.testing.assert_allclose(fit.margins(x, y, eps, box), worst, atol=1e-14)
    assert fit.robust_accuracy(x, y, eps, box) == (worst > 0).mean()


def test_no_attack_passes_the_margins_and_one_signed_gradient_step_attains_them(some: Examples) -> None:
    fit = fit_linear(*some, 0.2)
    x, y = torch.tensor(some[0][:100]), torch.tensor(some[1][:100])
    w = torch.tensor(fit.w)

    def model(z: torch.Tensor) -> torch.Tensor:
        score = z @ w + fit.b
        return torch.stack([-score, score], 1) / 2

    exact = fit.margins(x, y, 0.2)
    for attack in (nfl.fgsm(nfl.Linf(0.2)), nfl.PGD(nfl.Linf(0.2), steps=40, step_size=0.02)):
        z = attack(model, x, (y > 0).long(), torch.Generator().manual_seed(0))
        reached = (y * (z @ w + fit.b)).numpy()
        assert (reached >= exact - 1e-9).all()
        np.testing.assert_array_equal(reached > 0, exact > 0)
    assert fit.robust_accuracy(x, y, 0.2) == (reached > 0).mean()


def test_a_fit_keeps_to_its_own_box() -> None:
    x, y = noisy(60, 4)
    wide, free = fit_linear(2 * x - 1, y, 0.1, (-1, 1), l2=0.1), fit_linear(x, y, 0.1, None, l2=0.1)
    assert wide.clean_accuracy(2 * x - 1, y) == wide.robust_accuracy(2 * x - 1, y, 0.0, (-1, 1))
    assert wide.robust_accuracy(2 * x - 1, y, 0.3) == wide.robust_accuracy(2 * x - 1, y, 0.3, (-1, 1))
    np.testing.assert_array_equal(free.margins(x, y, 0.1), free.margins(x, y, 0.1, None))


def test_the_unit_of_the_pixels_does_not_matter() -> None:
    """Grey levels from 0 to 255 and a radius of 20 of them are the same problem; a radius beyond the box is none."""
    x, y = noisy(60, 4)
    one, levels = fit_linear(x, y, 20 / 255, l2=0.1), fit_linear(255 * x, y, 20, (0, 255), l2=0.1 * 255**2)
    np.testing.assert_allclose(255 * levels.w, one.w, atol=1e-6)
    assert levels.robust_accuracy(255 * x, y, 30) == one.robust_accuracy(x, y, 30 / 255)
    with pytest.raises(InputError, match=r"eps must be in \[0, 255\], got 256"):
        fit_linear(255 * x, y, 256, (0, 255))


def test_ties_are_errors() -> None:
    x, y = np.array([[0.5], [0.6], [0.4]]), np.array([1, 1, -1])
    assert fitted([1.0], -0.5).clean_accuracy(x, y) == pytest.approx(2 / 3)
    assert fitted([0.0], 0.0).clean_accuracy(x, y) == 0
    assert fitted([2.0], -1.0).robust_accuracy(x, y, 0.125) == 0


def test_robust_accuracy_falls_with_eps_and_the_box_helps_the_classifier(some: Examples) -> None:
    fit = fit_linear(*some, 0.1)
    inside = [fit.robust_accuracy(*some, eps) for eps in (0.0, 0.05, 0.1, 0.2, 1.0)]
    outside = [fit.robust_accuracy(*some, eps, None) for eps in (0.0, 0.05, 0.1, 0.2, 1.0)]
    assert inside == sorted(inside, reverse=True)
    assert inside[0] == outside[0] == fit.clean_accuracy(*some)
    assert all(a > b for a, b in zip(inside[1:4], outside[1:4], strict=True))


# the optimum


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("eps", "l2"), [(0.2, 0.0), (0.1, 0.0), (0.05, 0.01), (0.0, 0.001)])
def test_an_independent_solver_agrees(some: Examples, eps: float, l2: float, box: tuple | None) -> None:
    x, y = some
    d = x.shape[1]
    down, up = (eps, eps) if box is None else (np.minimum(eps, x), np.minimum(eps, 1 - x))
    loss_of_positive = np.where(y[:, None] > 0, down, up) + 0 * x
    loss_of_negative = np.where(y[:, None] > 0, up, down) + 0 * x

    def value_and_slope(v: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus, b = v[:d], v[d:-1], v[-1]
        margins = y * (x @ (plus - minus) + b) - loss_of_positive @ plus - loss_of_negative @ minus
        pull = -expit(-margins) / len(y)
        by_x = (pull * y) @ x
        slope = [by_x - pull @ loss_of_positive + l2 * plus, -by_x - pull @ loss_of_negative + l2 * minus, [pull @ y]]
        return np.logaddexp(0, -margins).mean() + l2 / 2 * (v[:-1] @ v[:-1]), np.concatenate(slope)

    bounds = [(0, None)] * (2 * d) + [(None, None)]
    other = minimize(
        value_and_slope, np.zeros(2 * d + 1), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    fit = fit_linear(x, y, eps, box, l2=l2)
    assert fit.objective == pytest.approx(plain_loss(fit.w, fit.b, x, y, eps, box) + l2 / 2 * fit.w @ fit.w, abs=1e-12)
    assert fit.objective == pytest.approx(other.fun, abs=1e-6)
    assert fit.objective <= other.fun + 1e-12


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-9, 1e-6])
def test_a_vanishing_adversary_changes_nothing(eps: float) -> None:
    fit, standard = fit_linear(*noisy(200, 8), eps), fit_linear(*noisy(200, 8))
    assert fit.residual < 1e-8
    np.testing.assert_allclose(fit.w, standard.w, atol=1e-4)


@pytest.mark.parametrize("box", BOXES)
def test_no_direction_lowers_the_loss_at_the_optimum(box: tuple | None) -> None:
    x, y = noisy()
    fit = fit_linear(x, y, 0.15, box)
    assert 0 < len(fit.pixels) < 6
    assert fit.residual < 1e-8
    rng = np.random.default_rng(1)
    directions = [*np.eye(7), *-np.eye(7), *rng.normal(size=(200, 7))]
    for step in directions:
        w, b = fit.w + 1e-4 * step[:-1], fit.b + 1e-4 * step[-1]
        assert plain_loss(w, b, x, y, 0.15, box) >= fit.objective


@pytest.mark.parametrize("box", BOXES)
def test_violations_are_the_smallest_subgradient_pixel_by_pixel(box: tuple | None) -> None:
    x, y = noisy()
    w, b, step = np.array([0.5, -0.8, 0.0, 0.0, 1.0, 0.0]), 0.3, 1e-7
    problem = Problem.of(x, y, 0.05, box)
    margins = problem.margins(split(w), b)
    np.testing.assert_allclose(margins, plain_margins(w, b, x, y, 0.05, box), atol=1e-12)
    grad, grad_b = problem.gradient(margins, split(w))
    violations = problem.violations(split(w), grad).reshape(2, 6).max(0)
    here = plain_loss(w, b, x, y, 0.05, box)
    right, left = (
        np.array([(plain_loss(w + s * e, b, x, y, 0.05, box) - here) / s for e in np.eye(6)]) for s in (step, -step)
    )
    expected = np.maximum(np.maximum(-right, left), 0)
    np.testing.assert_allclose(violations, expected, atol=1e-6)
    assert (violations[w == 0] > 0.01).any()
    assert grad_b == pytest.approx((plain_loss(w, b + step, x, y, 0.05, box) - here) / step, abs=1e-6)


def test_the_residual_is_the_largest_violation() -> None:
    x, y = noisy()
    for step, of_bias in ((0.5, False), (1e-3, True)):
        fit = fit_linear(x, y, 0.1, method="sgd", recipe=Descent(3, 20, step))
        problem = Problem.of(x, y, 0.1, (0, 1))
        grad, grad_b = problem.gradient(problem.margins(split(fit.w), fit.b), split(fit.w))
        largest = problem.violations(split(fit.w), grad).max()
        assert fit.residual == pytest.approx(max(largest, abs(grad_b)))
        assert (abs(grad_b) > largest) == of_bias


@pytest.mark.parametrize(("box", "pixels"), [((0, 1), 30), (None, 15)])
def test_the_real_digits_take_seconds_and_few_pixels(digits: Examples, box: tuple | None, pixels: int) -> None:
    start = time.perf_counter()
    fit = fit_linear(*digits, 0.2, box)
    assert time.perf_counter() - start < 10
    assert fit.residual < 1e-8
    assert 1 < len(fit.pixels) < pixels
    assert fit.objective == pytest.approx(plain_loss(fit.w, fit.b, *digits, 0.2, box), abs=1e-12)


def test_repeated_and_constant_pixels_do_no_harm() -> None:
    x, y = noisy(200, 4)
    alone = fit_linear(x, y, 0.0)
    more = fit_linear(np.hstack([x, x, np.ones((200, 1)), np.zeros((200, 1))]), y, 0.0)
    assert more.residual < 1e-8
    assert more.objective == pytest.approx(alone.objective, abs=1e-10)


# where there is no optimum


def test_standard_training_on_the_digits_has_no_optimum(digits: Examples, some: Examples) -> None:
    with pytest.raises(NoOptimum, match=r"no minimum.*method=.sgd.") as error:
        fit_linear(*digits)
    assert error.value.margin > 0
    assert fit_linear(*some, l2=1e-2).residual < 1e-8


def test_ties_alone_can_stand_in_the_way() -> None:
    x, y = np.array([[0.0], [0.0], [1.0]]), np.array([-1, 1, 1])
    with pytest.raises(NoOptimum, match="or tie with it") as error:
        fit_linear(x, y)
    assert error.value.margin == 0
    assert fit_linear([*x, [1.0]], [*y, -1]).residual < 1e-8


def has_no_optimum(x: np.ndarray, y: np.ndarray, eps: float, box: tuple | None) -> bool:
    """Whether some (w, b) has no negative worst-case margin and a positive one: a linear program."""
    n, d = x.shape
    eye = np.eye(d)
    plus = np.array([plain_margins(e, 0.0, x, y, eps, box) for e in eye]).T
    minus = np.array([plain_margins(-e, 0.0, x, y, eps, box) for e in eye]).T
    gain = np.hstack([plus, minus, y[:, None]])
    bounds = [(0, None)] * (2 * d) + [(None, None)] + [(0, 1)] * n
    cost = np.concatenate([np.zeros(2 * d + 1), -np.ones(n)])
    program = linprog(cost, A_ub=np.hstack([-gain, np.eye(n)]), b_ub=np.zeros(n), bounds=bounds)
    return bool(program.fun < -1e-6)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.125, 0.25]), st.sampled_from(BOXES))
@settings(max_examples=80, deadline=None)
def test_there_is_an_optimum_or_a_proof_that_there_is_none(seed: int, eps: float, box: tuple | None) -> None:
    rng = np.random.default_rng(seed)
    n, d = rng.integers(3, 12), rng.integers(1, 4)
    x, y = rng.integers(0, 5, (n, d)) / 4, np.where(np.arange(n) < rng.integers(1, n), 1.0, -1.0)
    if has_no_optimum(x, y, eps, box):
        with pytest.raises(NoOptimum):
            fit_linear(x, y, eps, box)
    else:
        assert fit_linear(x, y, eps, box).residual < 1e-8


def test_where_no_pixel_is_worth_its_risk_the_weights_are_zero(some: Examples) -> None:
    x, y = some
    fit = fit_linear(x, y, 0.4)
    assert not fit.w.any()
    assert fit.b == pytest.approx(np.log((y > 0).sum() / (y < 0).sum()))
    assert fit.objective == pytest.approx(plain_loss(fit.w, fit.b, x, y, 0.4, (0, 1)))


# the paper's recipe


def test_descent_follows_its_equation() -> None:
    x, y = noisy(30, 5)
    fit = fit_linear(x, y, 0.1, method="sgd", l2=0.3, recipe=Descent(epochs=2, batch_size=30, step_size=0.5))
    w, b = np.zeros(5), 0.0
    for _ in range(2):
        z = np.clip(x - 0.1 * np.outer(y, np.sign(w)), 0, 1)
        pull = y / (1 + np.exp(y * (z @ w + b))) / 30
        w, b = w + 0.5 * (z.T @ pull - 0.3 * w), b + 0.5 * pull.sum()
    np.testing.assert_allclose(fit.w, w, atol=1e-6)
    assert fit.b == pytest.approx(b, abs=1e-6)
    assert fit.objective == pytest.approx(plain_loss(w, b, x, y, 0.1, (0, 1)) + 0.15 * w @ w, abs=1e-6)


def test_a_batch_that_is_not_full_counts_its_own_examples() -> None:
    x, y = noisy(30, 5)
    whole, more = (fit_linear(x, y, 0.1, method="sgd", recipe=Descent(2, size, 0.5)) for size in (30, 100))
    np.testing.assert_allclose(more.w, whole.w, atol=1e-6)


def test_descent_repeats_with_its_seed_and_differs_with_another(some: Examples) -> None:
    recipe = Descent(epochs=3, step_size=0.01)
    first, again, other = (fit_linear(*some, 0.2, method="sgd", recipe=recipe, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.w, again.w)
    assert not np.array_equal(first.w, other.w)
    assert first.residual > 1e-6


@pytest.mark.parametrize("box", BOXES)
def test_longer_descent_comes_nearer_to_the_optimum(box: tuple | None) -> None:
    x, y = noisy(200, 6)
    best = fit_linear(x, y, 0.1, box).objective
    gaps = [
        fit_linear(x, y, 0.1, box, method="sgd", recipe=Descent(epochs, 200, 0.2)).objective - best
        for epochs in (10, 100, 1000)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 2e-3


# symmetries


@given(st.integers(0, 10**6), st.sampled_from(BOXES), st.sampled_from([0.05, 0.15]))
@settings(max_examples=25, deadline=None)
def test_the_optimum_keeps_the_problem_s_symmetries(seed: int, box: tuple | None, eps: float) -> None:
    x, y = noisy(80, 5, seed)
    fit = fit_linear(x, y, eps, box)
    rng = np.random.default_rng(seed)
    rows, pixels = rng.permutation(80), rng.permutation(5)
    shuffled = fit_linear(x[rows][:, pixels], y[rows], eps, box)
    swapped = fit_linear(x, -y, eps, box)
    negative = fit_linear(1 - x, y, eps, box)
    np.testing.assert_allclose(shuffled.w, fit.w[pixels], atol=1e-6)
    np.testing.assert_allclose(np.append(swapped.w, swapped.b), -np.append(fit.w, fit.b), atol=1e-6)
    np.testing.assert_allclose(np.append(negative.w, negative.b), np.append(-fit.w, fit.b + fit.w.sum()), atol=1e-6)


# the threshold of eps


@pytest.mark.parametrize("box", BOXES)
def test_a_pixel_is_used_only_where_its_covariance_equals_the_adversary_s_room(
    some: Examples, box: tuple | None
) -> None:
    x, y = some
    fit = fit_linear(x, y, 0.2, box)
    use = pixel_use(fit, x, y)
    used = fit.w != 0
    np.testing.assert_allclose(use.share[used], np.sign(fit.w[used]), atol=1e-6)
    assert (np.abs(use.share[~used]) < 1 + 1e-6).all()
    if box is None:
        np.testing.assert_allclose(use.room, 0.2, atol=1e-12)
    else:
        assert (use.room[used] < 0.2).all()


def test_pixel_use_is_what_it_says(some: Examples) -> None:
    x, y = some[0][:100, 300:420], some[1][:100]
    fit = fit_linear(x, y, 0.2, method="sgd", recipe=Descent(5, 10, 0.05))
    use = pixel_use(fit, x, y)
    pi = expit(-plain_margins(fit.w, fit.b, x, y, 0.2, (0, 1)))
    pi /= pi.sum()
    joint = np.cov(np.column_stack([x, y]).T, aweights=pi, ddof=0)
    np.testing.assert_allclose(use.covariance, joint[:-1, -1], atol=1e-12)
    for j in range(x.shape[1]):
        harm_is_down = y * use.covariance[j] >= 0 if use.covariance[j] else y > 0
        room = np.minimum(0.2, np.where(harm_is_down, x[:, j], 1 - x[:, j]))
        assert use.room[j] == pytest.approx(pi @ room)


@pytest.mark.parametrize("box", BOXES)
def test_from_the_vanishing_eps_on_no_pixel_is_used(some: Examples, box: tuple | None) -> None:
    x, y = some
    eps = vanishing_eps(x, y, box)
    assert not fit_linear(x, y, eps + 1e-6, box).w.any()
    assert fit_linear(x, y, eps - 1e-4, box).w.any()
    if box is None:
        assert eps == pytest.approx(np.abs(x[y > 0].mean(0) - x[y < 0].mean(0)).max() / 2)


def test_the_vanishing_eps_of_pixels_far_from_the_box_is_the_one_without_it() -> None:
    x, y = 0.4 + 0.2 * noisy()[0], noisy()[1]
    assert vanishing_eps(x, y) == pytest.approx(vanishing_eps(x, y, None), abs=1e-12)
    assert vanishing_eps(np.full((4, 2), 0.5), np.array([1, 1, -1, -1])) == pytest.approx(0, abs=1e-12)


# the door


def test_tensors_images_and_float32_are_taken(some: Examples) -> None:
    x, y = some
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 28, 28)
    fit = fit_linear(images, torch.tensor(y, dtype=torch.int64), 0.2)
    assert fit.w.shape == (784,)
    np.testing.assert_allclose(fit.w, fit_linear(x, y, 0.2).w, atol=1e-4)
    assert fit.clean_accuracy(images, y) == fit.clean_accuracy(x, y)
    assert nfl.fit_linear is fit_linear


GOOD_X, GOOD_Y = noisy(8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": GOOD_X * 255}, r"x must lie in \[0, 1\].*divide by 255"),
        ({"x": GOOD_X - 0.5}, r"x must lie in \[0, 1\], got values from -0.5"),
        ({"x": np.where(np.arange(3) == 1, np.nan, GOOD_X)}, "example 0 holds NaN"),
        ({"x": GOOD_X[:, 0]}, r"x must have shape \(n, d\)"),
        ({"x": GOOD_X[:0], "y": GOOD_Y[:0]}, r"x must have shape \(n, d\)"),
        ({"x": [["a"]]}, "x must be an array of numbers"),
        ({"x": torch.zeros(8, 3, requires_grad=True)}, "x must be an array of numbers"),
        ({"y": (GOOD_Y + 1) / 2}, r"y must be -1 or \+1, got 0; labels 0 and 1 become 2 \* y - 1"),
        ({"y": GOOD_Y[:5]}, "y must have one label per example"),
        ({"y": np.ones(8)}, r"both classes.*got only \+1"),
        ({"eps": -0.1}, r"eps must be in \[0, 1\], got -0.1"),
        ({"eps": 8.0}, r"eps must be in \[0, 1\], got 8"),
        ({"l2": float("nan")}, "l2 must be in"),
        ({"method": "optimun"}, 'did you mean "optimum"'),
        ({"box": (1, 0)}, r"box must be \(low, high\)"),
    ],
)
def test_wrong_input_is_one_sentence(change: dict, message: str) -> None:
    arguments = {"x": GOOD_X, "y": GOOD_Y, "eps": 0.1, **change}
    with pytest.raises(nfl.InputError, match=message):
        fit_linear(**arguments)


def test_a_fit_refuses_other_pixels_and_a_recipe_other_numbers() -> None:
    with pytest.raises(nfl.InputError, match="x must have 2 pixels per example"):
        fitted([1.0, 2.0], 0.0).clean_accuracy(GOOD_X, GOOD_Y)
    with pytest.raises(nfl.InputError, match="epochs must be a whole number of at least 1, got 0"):
        Descent(epochs=0)
    with pytest.raises(nfl.InputError, match="step_size must be in"):
        Descent(step_size=0.0)
