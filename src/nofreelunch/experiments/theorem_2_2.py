"""Theorem 2.2: the population SVM, plain and adversarial, at every training eps, with its exact thresholds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofreelunch.drawing import COLOUR
from nofreelunch.experiments.base import Experiment, Finding, beyond, holds
from nofreelunch.experiments.paper_values import (
    LEMMA_C_2,
    THEOREM_2_1_P,
    THEOREM_2_2_ADVERSARIAL,
    THEOREM_2_2_MU,
    THEOREM_2_2_STANDARD,
)
from nofreelunch.theory import GaussianModel, SvmSolution, fit_svm
from nofreelunch.theory.hinge import Hinge
from nofreelunch.theory.svm import hinge_of
from nofreelunch.workspace import Workspace

LAM = 1.0  # where not tuned to unit norm
TEST_EPS = 0.999  # just below 1


@dataclass(frozen=True)
class Config:
    """The data model (eta = mu / sqrt(d)), and how many training eps and angles are looked at; nothing is random."""

    d: int = 1000
    mu: float = THEOREM_2_2_MU
    p: float = THEOREM_2_1_P
    points: int = 241
    angles: int = 3601


@dataclass(frozen=True)
class Result:
    """What the SVMs are and do.

    `path` has a row (training eps, w1, v, clean, robust at 2 eta) for each training eps at which some lam gives unit
    norm; `at_lam` rows (training eps, w1, v) at lam = LAM for all. `zero_w1` and `zero_v` are the smallest training eps
    at which the weights were found to be zero. `standard` is (clean, robust at 2 eta), `adversarial` the least of clean
    and robust at TEST_EPS over training eps from eta to 2p - 1. `longest` is the largest |w| beyond, over many lam;
    `hard` the largest |v| there if |w| = 1 is a hard constraint. `lemma_c_2` is (v, loss without it, loss of z alone).
    """

    eta: float
    p: float
    path: np.ndarray
    at_lam: np.ndarray
    zero_w1: float
    zero_v: float
    standard: tuple[float, float]
    adversarial: float
    longest: float
    hard: float
    lemma_c_2: tuple[float, float, float]
    towards_y: float
    slopes_of_display: tuple[float, float]
    first_d: int
    residual: float


def run(config: Config, workspace: Workspace) -> Result:
    """Fit, measure, and look for each threshold without using its formula."""
    model = GaussianModel(config.d, config.mu / math.sqrt(config.d), config.p)
    limit = 2 * config.p - 1
    grid = np.linspace(0, 1.5 * limit, config.points)
    unit = [(eps, fit_svm(model, eps=eps)) for eps in grid[grid < limit].tolist()]
    fixed = [(eps, fit_svm(model, LAM, eps)) for eps in grid.tolist()]
    window = [fit_svm(model, eps=eps) for eps in np.linspace(model.eta, limit - 1e-6, 9).tolist()]
    beyond_it = [
        fit_svm(model, lam, eps) for lam in (1e-6, 1e-3, 1e-1, 1.0, 10.0) for eps in (limit + 1e-9, 0.6, 0.9, 0.99)
    ]
    standard = fit_svm(model)
    solutions = [each for _, each in unit + fixed] + window + beyond_it + [standard]
    rule = standard.rule(config.d)
    return Result(
        eta=model.eta,
        p=config.p,
        path=np.array([[eps, each.w1, each.v, *_accuracies(model, each, 2 * model.eta)] for eps, each in unit]),
        at_lam=np.array([[eps, each.w1, each.v] for eps, each in fixed]),
        zero_w1=_first_zero(lambda eps: fit_svm(model, LAM, eps).w1),
        zero_v=_first_zero(lambda eps: fit_svm(model, LAM, eps).v),
        standard=_accuracies(model, standard, 2 * model.eta),
        adversarial=min(min(_accuracies(model, each, TEST_EPS)) for each in window),
        longest=max(math.hypot(each.w1, each.v) for each in beyond_it),
        hard=max(_best_on_circle(model, eps, config.angles) for eps in (2 * model.eta, limit, 0.6, 0.99)),
        lemma_c_2=_lemma_c_2(model, standard),
        towards_y=rule.accuracy(model.eta, model.p, -2 * model.eta * rule.weak_sum),
        slopes_of_display=_slopes_of_display(model, 2 * model.eta),
        first_d=next(d for d in range(1, 10**6) if 2 * config.mu / math.sqrt(d) < limit),
        residual=max(each.residual for each in solutions),
    )


def _accuracies(model: GaussianModel, solution: SvmSolution, eps: float) -> tuple[float, float]:
    rule = solution.rule(model.d)
    return model.rule_accuracy(rule, 0.0), model.rule_accuracy(rule, eps)


def _first_zero(weight: Callable[[float], float]) -> float:
    """The training eps below 1 at which a weight becomes zero, by bisection; weights below 1e-9 count as zero."""
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if abs(weight(middle)) > 1e-9 else (low, middle)
    return high


def _best_on_circle(model: GaussianModel, eps: float, angles: int) -> float:
    """|v| of the least expected hinge on w1^2 + v^2 = 1; w1 and v at least 0 (others have no smaller loss)."""
    hinge = hinge_of(model, eps)
    points = [(math.cos(t), math.sin(t)) for t in np.linspace(0, math.pi / 2, angles).tolist()]
    return min(points, key=lambda point: hinge.value(*point))[1]


def _lemma_c_2(model: GaussianModel, standard: SvmSolution) -> tuple[float, float, float]:
    """v, the least loss of the examples with x_1 = -y for v = 1 / sqrt(2), and the loss of z alone."""
    half = LEMMA_C_2["v"]
    return standard.v, (1 - model.p) * Hinge(0.0, 0.0, model.mu).value(half, half), hinge_of(model, 0.0).value(0.0, 1.0)


def _slopes_of_display(model: GaussianModel, eps: float) -> tuple[float, float]:
    """Slope of the loss in v at w = 0: one delta for all examples (as displayed), and one for each (as meant)."""
    small, shift = 1e-3, eps * math.sqrt(model.d)
    moved = [(Hinge(model.p, 0.0, model.mu + side * shift).value(0.0, small) - 1) / small for side in (-1, 1)]
    return sum(moved) / 2, (hinge_of(model, eps).value(0.0, small) - 1) / small


def findings(result: Result) -> tuple[Finding, ...]:
    """The theorem's two halves, where the second one ends, and what its lemmas say wrongly."""
    return (*_halves(result), *_limits(result), *_lemmas(result))


def _halves(result: Result) -> tuple[Finding, ...]:
    clean, robust = result.standard
    least, most = THEOREM_2_2_STANDARD["clean"], THEOREM_2_2_STANDARD["robust"]
    adversarial = 100 * THEOREM_2_2_ADVERSARIAL
    return (
        holds(
            "The SVM of unit norm has a standard accuracy of more than 99 %.",
            "Theorem 2.2",
            clean > least,
            f"{100 * clean:.4f} %",
            paper=f"> {100 * least:g} %",
        ),
        holds(
            "Its adversarial accuracy is below 1 % from ε = 2η on.",
            "Theorem 2.2",
            robust < most,
            f"{100 * robust:.4f} %",
            paper=f"< {100 * most:g} %",
        ),
        holds(
            "The adversarial SVM has standard and adversarial accuracy 70 %, against any ε < 1.",
            "Theorem 2.2",
            abs(result.adversarial - THEOREM_2_2_ADVERSARIAL) < 1e-12,
            f"{100 * result.adversarial:.2f} %",
            f"Trained at ε from η = {result.eta:.4f} to 2p − 1 = {2 * result.p - 1:g}, tested at ε = {TEST_EPS:g}.",
            f"{adversarial:g} %",
        ),
    )


def _limits(result: Result) -> tuple[Finding, ...]:
    limit = 2 * result.p - 1
    return (
        holds(
            "It is so for every training ε from 2η up to 1.",
            "Theorem 2.2, Appendix C",
            result.longest > 1e-9,
            f"w = 0 from ε = {result.zero_w1:.4f} on",
            f"For every λ (five tried, |w| at most {result.longest:.0e}): x₁ pays less than its l₁ cost from 2p − 1 = "
            f"{limit:g} on, and no λ gives unit norm.",
        ),
        beyond(
            "With |w| = 1 as a hard constraint, z gets this weight at most, beyond 2p − 1 too.",
            result.hard,
            "At training ε from 2η to 0.99. With 0 the second half holds there: x₁ costs least of all directions, "
            "though more than w = 0.",
        ),
        beyond(
            "For η ≥ 4/√d the window 2η ≤ ε < 2p − 1, where both halves hold, is empty up to this d.",
            result.first_d - 1,
        ),
        beyond(
            "No optimum misses its optimality conditions by more than this.",
            result.residual,
            "The problem is convex: conditions that hold certify the optimum.",
        ),
    )


def _lemmas(result: Result) -> tuple[Finding, ...]:
    v, without, alone = result.lemma_c_2
    as_displayed, as_meant = result.slopes_of_display
    return (
        holds(
            "The SVM gives z a weight of at least 1/√2.",
            "Lemma C.2",
            v >= LEMMA_C_2["v"] and without > LEMMA_C_2["loss without it"] and alone < LEMMA_C_2["loss of z alone"],
            f"v = {v:.4f}",
            f"Its proof's two losses: {without:.5f} (more than {LEMMA_C_2['loss without it']:g}), {alone:.6f} "
            f"(less than {LEMMA_C_2['loss of z alone']:g}).",
            "≥ 0.7071",
        ),
        holds(
            "The adversary shifts each weak feature by 2η towards y.",
            "Lemma C.4",
            result.towards_y < THEOREM_2_2_STANDARD["robust"],
            f"accuracy {100 * result.towards_y:.2f} %",
            f"Towards −y is meant: {100 * result.standard[1]:.4f} %.",
        ),
        holds(
            "A weak feature adds a mean of 2η − ε to the adversarial loss, so its weight vanishes where that is ≤ 0.",
            "Lemma C.5",
            abs(result.zero_v - 2 * result.eta) < 1e-3 * result.eta,
            f"vanishes from ε = {result.zero_v:.4f} = {result.zero_v / result.eta:.4f} η",
            "The mean is ε − η: half of the stated ε is enough.",
            "2η",
        ),
        holds(
            "The adversarial loss is the maximum over δ of the expected hinge.",
            "Lemma C.5, first display",
            abs(as_displayed - as_meant) < 1e-6,
            f"slope in v at w = 0, ε = 2η: {as_displayed:+.3f}; with the maximum inside: {as_meant:+.3f}",
            "One δ for all examples would leave the weak features useful; the lemma needs a δ for each example.",
        ),
    )


def plot(result: Result) -> Figure:
    """Weights above, accuracies below, against the training eps."""
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(6.0, 7.2), sharex=True)
    eps, w1, v, clean, robust = result.path.T
    for weights, colour, name in ((w1, COLOUR["robust"], "x₁"), (v, COLOUR["standard"], "z, the weak features")):
        above.plot(eps, weights, color=colour, label=f"weight of {name}")
    for column, colour in ((1, COLOUR["robust"]), (2, COLOUR["standard"])):
        above.plot(result.at_lam[:, 0], result.at_lam[:, column], ":", color=colour, lw=1.5)
    below.plot(eps, clean, color=COLOUR["standard"], label="clean")
    below.plot(eps, robust, color=COLOUR["robust"], label="robust, ε = 2η")
    above.set(title="adversarial SVM of unit norm (dotted: λ = 1)", ylabel="weight", ylim=(-0.03, 1.06))
    below.set(title="its accuracies", ylabel="accuracy", xlabel="training ε", ylim=(-0.03, 1.06))
    for axes in (above, below):
        _thresholds(axes, result)
        axes.legend(loc="center right", fontsize=9)
    return figure


def _thresholds(axes: Axes, result: Result) -> None:
    limit = 2 * result.p - 1
    for at, name in ((result.eta, "η"), (2 * result.eta, "2η"), (limit, "2p − 1")):
        axes.axvline(at, color=COLOUR["quiet"], lw=1, ls="--")
        axes.annotate(name, (at, 0.78), (4, 0), xycoords=axes.get_xaxis_transform(), textcoords="offset points")
    axes.axvspan(limit, result.at_lam[-1, 0], color=COLOUR["quiet"], alpha=0.15, lw=0)
    axes.set_xlim(0, result.at_lam[-1, 0])
    axes.annotate("w = 0", ((limit + result.at_lam[-1, 0]) / 2, 0.9), ha="center")


def alt(result: Result) -> str:
    """The figure in words."""
    start, end = result.path[0], result.path[-1]
    return (
        f"Weights and accuracies of the adversarial SVM of unit norm against its training ε. At ε = 0, x₁ weighs "
        f"{start[1]:.2f} and z {start[2]:.2f}, clean accuracy is {start[3]:.4f}, robust accuracy {start[4]:.4f}. "
        f"The weight of z vanishes at ε = {result.zero_v:.3f}; from there to ε = {result.zero_w1:.3f} x₁ stands "
        f"alone and both accuracies are {end[3]:.2f}. Beyond, all weights are zero."
    )


EXPERIMENT = Experiment(
    name="theorem-2.2",
    paper_reference="Section 2.2, Theorem 2.2, Appendix C",
    title="Adversarial training matters: the SVM of the whole distribution",
    about=(
        "The soft-margin SVM of the Gaussian model is solved on the distribution itself, plainly and against an ℓ∞ "
        "adversary, at unit norm as in Appendix C, with a certificate. Look at the dashed thresholds: where the weak "
        "weights vanish, where the paper says they do, and where the weight of x₁ does, which ends the second half."
    ),
    presets={"smoke": Config(points=31, angles=181), "laptop": Config(), "paper": Config(points=1201, angles=36_001)},
    result_type=Result,
    run=run,
    findings=findings,
    plot=plot,
    alt=alt,
)
