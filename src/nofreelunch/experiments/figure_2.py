"""Figure 2: what linear classifiers of two classes weigh, which pixels robust ones can use, and how few pixels do."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from nofreelunch.experiments.base import Experiment
from nofreelunch.experiments.figure_2_findings import findings
from nofreelunch.experiments.figure_2_plot import alt, plot
from nofreelunch.experiments.figure_2_result import Result
from nofreelunch.experiments.linear_study import BOX, LinearConfig, Pair, inputs, load_pair
from nofreelunch.features import feature_label_correlation
from nofreelunch.training.linear import Descent, LinearFit, NoOptimum, fit_linear
from nofreelunch.training.linear_threshold import pixel_use, vanishing_eps
from nofreelunch.workspace import Workspace

Curve = Float64[np.ndarray, "k 2"]


@dataclass(frozen=True, kw_only=True)
class Config(LinearConfig):
    """What is swept: numbers of pixels, and radii."""

    counts: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 400)
    path: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def run(config: Config, workspace: Workspace) -> Result:
    """Train on all pixels, on the most correlated ones, and along a path of eps."""
    pair = load_pair(config, workspace)
    recipe = Descent(epochs=config.epochs)
    correlation = feature_label_correlation((pair.x, pair.y))
    order = np.argsort(-np.abs(correlation), kind="stable")
    counts = (*(k for k in config.counts if k < len(order)), len(order))
    standard = fit_linear(pair.x, pair.y, 0.0, BOX, "sgd", recipe=recipe, seed=config.seed)
    descent = fit_linear(pair.x, pair.y, config.eps, BOX, "sgd", recipe=recipe, seed=config.seed)
    optimum = _optimum(pair, config.eps)
    path = _path(pair, config.path)
    accuracies = {"descent": _accuracies(descent, pair, config.eps)}
    if optimum:
        accuracies["optimum"] = _accuracies(optimum, pair, config.eps)
    return Result(
        title=config.title,
        eps=config.eps,
        n_test=len(pair.y_test),
        shape=pair.shape,
        correlation=correlation,
        activity=(pair.x != np.median(pair.x, axis=0)).mean(0),
        standard=standard.w,
        descent=descent.w,
        optimum=optimum.w if optimum else np.zeros_like(correlation),
        share=pixel_use(optimum, pair.x, pair.y).share if optimum else np.zeros_like(correlation),
        counts=counts,
        top=_by_descent(config, pair, [order[:k] for k in counts[:-1]], _accuracies(standard, pair, config.eps)),
        top_optimum=_by_optimum(config, pair, [order[:k] for k in counts]),
        adversarial=accuracies,
        path=tuple(fit.eps for fit in path),
        path_accuracy=_curve([_accuracies(fit, pair, fit.eps) for fit in path]),
        path_pixels=tuple(len(fit.pixels) for fit in path),
        separable=tuple(eps for eps in config.path if eps not in {fit.eps for fit in path}),
        vanishing_eps=vanishing_eps(pair.x, pair.y, BOX),
    )


def _by_descent(config: Config, pair: Pair, chosen: list[Int64[np.ndarray, "..."]], whole: tuple[float, ...]) -> Curve:
    """Accuracies of standard training by descent on some of the pixels; `whole` are those on all of them."""
    recipe = Descent(epochs=config.epochs)
    fits = (fit_linear(pair.x[:, p], pair.y, 0.0, BOX, "sgd", recipe=recipe, seed=config.seed) for p in chosen)
    return _curve([_accuracies(fit, pair.only(p), config.eps) for fit, p in zip(fits, chosen, strict=True)] + [whole])


def _by_optimum(config: Config, pair: Pair, chosen: list[Int64[np.ndarray, "..."]]) -> Curve:
    """The same at the optimum, until the pixels suffice to separate the classes: more of them separate them too."""
    rows = []
    for pixels in chosen:
        some = pair.only(pixels)
        fit = _optimum(some, 0.0)
        if fit is None:
            break
        rows.append(_accuracies(fit, some, config.eps))
    return _curve(rows)


def _path(pair: Pair, values: tuple[float, ...]) -> list[LinearFit]:
    """Optima of adversarial training by ascending eps, as far down as there are any: a smaller eps separates too."""
    fits: list[LinearFit] = []
    for eps in sorted(values, reverse=True):
        fit = _optimum(pair, eps)
        if fit is None:
            break
        fits.insert(0, fit)
    return fits


def _optimum(pair: Pair, eps: float) -> LinearFit | None:
    """The optimum of adversarial training, or None where the examples are separable and there is none."""
    try:
        return fit_linear(pair.x, pair.y, eps, BOX)
    except NoOptimum:
        return None


def _accuracies(fit: LinearFit, pair: Pair, eps: float) -> tuple[float, ...]:
    """Clean and robust accuracy on the test images."""
    return fit.clean_accuracy(pair.x_test, pair.y_test), fit.robust_accuracy(pair.x_test, pair.y_test, eps)


def _curve(rows: list[tuple[float, ...]]) -> Curve:
    return np.array(rows).reshape(-1, 2)


EXPERIMENT = Experiment(
    name="figure-2",
    paper_reference="Section 2.3, Figure 2",
    title="The pixels that standard and robust linear classifiers use",
    about=(
        "Linear classifiers of two classes of real images: (a) their weights, (b) weight against correlation with the "
        "label, (c) accuracy on the most correlated pixels only, down to one. Beyond the paper: (d) the threshold that "
        "ε sets, exact, and (e) the path of optima from small ε to large."
    ),
    presets={
        "smoke": Config(epochs=2, counts=(1, 5, 50), path=(0.1, 0.2), examples=500),
        "laptop": Config(),
        "paper": Config(
            counts=(*range(1, 31), *range(35, 101, 5), *range(120, 784, 20)),
            path=(*(k / 200 for k in range(1, 20)), *(k / 100 for k in range(10, 36))),
        ),
    },
    result_type=Result,
    run=run,
    findings=findings,
    plot=plot,
    alt=alt,
    inputs=inputs,
)
