"""Transferability (end of Section 2.2): adversarial examples of one SVM, given to another that saw other data."""

import math
from dataclasses import dataclass
from statistics import mean

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

from nofreelunch.drawing import COLOUR
from nofreelunch.experiments.base import Experiment, Finding, beyond, holds
from nofreelunch.experiments.paper_values import THEOREM_2_1_P, THEOREM_2_2_MU
from nofreelunch.theory import GaussianModel, fit_sample_svm, fit_svm, transfer_accuracy
from nofreelunch.workspace import Workspace

COLUMNS = ("clean", "transferred", "own", "random")
"""Accuracies of the target: on clean examples, on those made against the source, on those made against itself, and on
examples moved by eps along random signs."""


@dataclass(frozen=True)
class Config:
    """The data model (eta = mu / sqrt(d)), the SVMs, and the adversary's radii in units of eta."""

    d: int = 500
    mu: float = THEOREM_2_2_MU
    p: float = THEOREM_2_1_P
    lam: float = 0.01
    sizes: tuple[int, ...] = (4, 10, 30, 100, 300, 1000, 2000)
    pairs: int = 3
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
    samples: int = 20_000
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """Accuracies of the target SVM, of shape (.., COLUMNS), exact given the weights.

    `by_size` (sizes, pairs, columns) at eps = 2 eta; `by_eps` (ratios, pairs, columns) for the largest samples. `limit`
    is the transferred accuracy for infinite samples, at 2 eta; `cosine` the mean cosine of the two weight vectors for
    each size. `simulated` is the transferred accuracy on fresh examples for the largest samples' first pair; `gap` the
    largest duality gap of the SVMs.
    """

    d: int
    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    by_size: np.ndarray
    by_eps: np.ndarray
    cosine: tuple[float, ...]
    limit: float
    simulated: float
    samples: int
    gap: float


def run(config: Config, workspace: Workspace) -> Result:
    """Train a pair of SVMs per size and seed, each on its own sample; transfer from the first to the second."""
    model = GaussianModel(config.d, config.mu / math.sqrt(config.d), config.p)
    rng = np.random.default_rng(config.seed)
    by_size, cosine, gap = [], [], 0.0
    for n in config.sizes:
        pairs = []
        for _ in range(config.pairs):
            source, target = (fit_sample_svm(*model.sample(n, rng), config.lam) for _ in range(2))
            pairs.append((source.w, target.w))
            gap = max(gap, source.gap, target.gap)
        by_size.append([_accuracies(model, *pair, 2 * model.eta, rng) for pair in pairs])
        cosine.append(mean(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs))
    population = fit_svm(model, config.lam).weights(config.d)
    return Result(
        d=config.d,
        sizes=config.sizes,
        ratios=config.ratios,
        by_size=np.array(by_size),
        by_eps=np.array(
            [[_accuracies(model, *pair, ratio * model.eta, rng) for pair in pairs] for ratio in config.ratios]
        ),
        cosine=tuple(cosine),
        limit=transfer_accuracy(model, population, population, 2 * model.eta),
        simulated=_simulated(model, *pairs[0], 2 * model.eta, config.samples, rng),
        samples=config.samples,
        gap=gap,
    )


def _accuracies(
    model: GaussianModel, source: np.ndarray, target: np.ndarray, eps: float, rng: np.random.Generator
) -> list[float]:
    """In the order of COLUMNS."""
    random = rng.choice([-1.0, 1.0], size=len(target))
    return [
        model.clean_accuracy(target),
        transfer_accuracy(model, source, target, eps),
        model.robust_accuracy(target, eps),
        transfer_accuracy(model, random, target, eps),
    ]


def _simulated(
    model: GaussianModel, source: np.ndarray, target: np.ndarray, eps: float, n: int, rng: np.random.Generator
) -> float:
    x, y = model.sample(n, rng)
    attacked = x - eps * y[:, None] * np.sign(source)
    return float((y * (attacked @ target) > 0).mean())


def findings(result: Result) -> tuple[Finding, ...]:
    """Whether the examples transfer, from which sample size on, and what they do not need."""
    clean, transferred, own, random = (100 * result.by_size[-1].mean(0)).tolist()
    n = result.sizes[-1]
    reached = [size for size, rows in zip(result.sizes, result.by_size, strict=True) if rows[:, 1].mean() < 0.5]
    exact = result.by_size[-1][0][1]
    error = math.sqrt(max(exact * (1 - exact), 1 / result.samples) / result.samples)
    return (
        holds(
            "Adversarial examples transfer across classifiers trained on independent samples.",
            "Section 2.2, Transferability",
            transferred < clean / 2,
            f"{transferred:.3f} %",
            f"Accuracy of an SVM at ε = 2η on the examples made against another, {n:,} training examples each; clean "
            f"{clean:.3f} %, made against itself {own:.3f} %, for infinite samples {100 * result.limit:.3f} %.",
        ),
        beyond(
            "From this many training examples on, of the sizes tried, most of the transferred examples succeed.",
            reached[0] if reached else "none of them",
            f"Sizes tried: {', '.join(f'{size:,}' for size in result.sizes)}, with {result.d:,} weak features.",
        ),
        beyond(
            "The two weight vectors have this cosine when the samples are largest.",
            result.cosine[-1],
            f"For the smallest samples {result.cosine[0]:.3f}: the examples need the signs to agree, not the weights.",
        ),
        beyond(
            "Steps of the same size along random signs leave this accuracy.",
            random,
            "Same SVMs: what transfers is the direction, not the size of the perturbation.",
            "%",
        ),
        beyond(
            "A simulation differs from the closed form by this many standard errors.",
            abs(result.simulated - exact) / error,
            f"{result.samples:,} fresh examples; the largest duality gap of the SVMs is {result.gap:.0e}.",
        ),
    )


def plot(result: Result) -> Figure:
    """Accuracy against sample size above, against eps below; bands span the pairs."""
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(6.0, 7.2))
    colours = [COLOUR[name] for name in ("standard", "bound", "robust", "quiet")]
    names = ("clean", "made against the other", "made against itself", "random signs")
    ratios = np.array(result.ratios)
    for axes, x, values in ((above, np.array(result.sizes), result.by_size), (below, ratios, result.by_eps)):
        for column, (name, colour) in enumerate(zip(names, colours, strict=True)):
            rows = values[:, :, column]
            axes.fill_between(x, rows.min(1), rows.max(1), color=colour, alpha=0.18, lw=0)
            shape = "o--" if name == "clean" else "o-"  # random signs lie on it
            axes.plot(x, rows.mean(1), shape, ms=4, color=colour, label=name, zorder=3 if name == "clean" else 2)
        axes.set(ylabel="accuracy", ylim=(-0.03, 1.05))
    above.set(xscale="log", xlabel="training examples of each SVM", title="ε = 2η")
    below.set(xlabel="ε / η", title=f"{result.sizes[-1]:,} training examples")
    above.legend(loc="center right", fontsize=9)
    return figure


def alt(result: Result) -> str:
    """The figure in words."""
    first, last = result.by_size[0].mean(0), result.by_size[-1].mean(0)
    middle = result.by_eps[result.ratios.index(1.0)].mean(0)
    return (
        f"Accuracy of an SVM against training examples (above, ε = 2η) and against ε (below). With {result.sizes[0]} "
        f"examples: clean {first[0]:.2f}, on examples made against another SVM {first[1]:.2f}, against itself "
        f"{first[2]:.2f}, random signs {first[3]:.2f}; with {result.sizes[-1]:,}: {last[0]:.3f}, {last[1]:.3f}, "
        f"{last[2]:.3f}, {last[3]:.3f}. At ε = η the transferred accuracy is {middle[1]:.2f}."
    )


EXPERIMENT = Experiment(
    name="transferability",
    paper_reference="Section 2.2, Transferability",
    title="Adversarial examples made against one SVM, given to another",
    about=(
        "Two soft-margin SVMs are trained on independent samples of the Gaussian model; the accuracy of the second on "
        "the adversarial examples of the first is exact, given the weights. Look at how few training examples suffice "
        "for the curves of the two adversaries to meet."
    ),
    presets={
        "smoke": Config(d=50, sizes=(10, 100), pairs=2, ratios=(0.0, 1.0, 2.0), samples=2000),
        "laptop": Config(),
        "paper": Config(d=1000, sizes=(4, 10, 30, 100, 300, 1000, 3000, 10_000), pairs=10, samples=100_000),
    },
    result_type=Result,
    run=run,
    findings=findings,
    plot=plot,
    alt=alt,
)
