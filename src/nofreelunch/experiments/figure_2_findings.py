"""Figure 2's claims held against our numbers, and what exactness adds to them."""

import numpy as np

from nofreelunch.experiments.base import Finding, beyond, holds
from nofreelunch.experiments.estimates import all_above_zero, gain
from nofreelunch.experiments.figure_2_result import Result

_BACKGROUND = 0.01  # a pixel is background if it leaves its median in fewer training images than this
_AS_WELL = 0.05  # "as well as": the accuracy that is missing is surely less than this
_EXACT = 1e-6  # how far rounding may take a used pixel's share from 1


def findings(result: Result) -> tuple[Finding, ...]:
    """The paper's claims about 2(a), 2(b) and 2(c), then the exact threshold, one pixel, and the path of eps."""
    about_use = (*_few_pixels(result), *_threshold(result)) if len(result.used) else ()
    about_standard = (_weak_pixels(result), *_background(result))
    about_few = (_trade_off(result), _alternative(result), _one_pixel(result))
    return (*about_use, *about_standard, *about_few, *_path(result))


def _few_pixels(result: Result) -> tuple[Finding, ...]:
    used, size = result.used, np.abs(result.correlation)
    weakest, typical = float(size[used].min()), float(np.median(size[result.activity > 0]))
    strength = f"each of |correlation| ≥ {weakest:.2f} (median of the pixels that vary: {typical:.2f})"
    ours = f"{len(used)} of {len(size):,} pixels, {strength}"
    few = len(used) < len(size) / 10 and weakest > typical
    claim = "Adversarially trained classifiers put weight only on a small number of strongly correlated pixels."
    by_descent = f"Descent stops before: it leaves {np.count_nonzero(result.descent)} weights not zero."
    return (holds(claim, "Figure 2(b)", few, ours, f"At the certified optimum. {by_descent}"),)


def _threshold(result: Result) -> tuple[Finding, ...]:
    used, size = result.used, np.abs(result.correlation)
    unused = np.setdiff1d(np.arange(len(size)), used)
    passed_over = int((size[unused] > size[used].min()).sum())
    share = np.abs(result.share)
    gap, best_unused = float(np.abs(share[used] - 1).max()), float(share[unused].max(initial=0))
    exact = (
        "|cov(x_j, y)| = room_j is necessary for a weight other than zero: covariance under the weights that the "
        "robust loss gives the examples, room_j how far the adversary can push pixel j on average (without a box: eps)."
    )
    return (
        holds(
            "Robust models cannot use pixels whose correlation with the label is below a threshold set by eps.",
            "Section 2.3",
            gap < _EXACT and best_unused < 1 + _EXACT,
            f"used pixels: |cov| / room = 1 within {gap:.0e}; all others at most {best_unused:.4f}",
            f"True in this exact form, which follows from the optimality conditions. {exact}",
        ),
        holds(
            "The plain correlation decides: every pixel above the threshold is used.",
            "Figure 2(b)",
            passed_over == 0,
            f"{passed_over} pixels are more correlated than the weakest used one and have weight zero",
            "A reading of Figure 2(b), where weight is drawn against the plain correlation.",
        ),
    )


def _weak_pixels(result: Result) -> Finding:
    size, weight = np.abs(result.correlation), np.abs(result.standard)
    line = size[result.used].min() if len(result.used) else np.quantile(size, 0.9)
    weak = (size < line) & (size > 0)
    count, of, part = int((weight[weak] > 0).sum()), int(weak.sum()), weight[weak].sum() / weight.sum()
    ours = f"{count} of {of} pixels below |correlation| {line:.2f}, with {100 * part:.0f} % of |w|₁"
    return holds("Standard training uses even weakly correlated pixels.", "Figure 2(b)", count > of / 2, ours)


def _background(result: Result) -> tuple[Finding, ...]:
    """Nothing where the images have no background."""
    rare = (result.activity > 0) & (result.activity < _BACKGROUND)
    never = result.activity == 0
    if not rare.any():
        return ()
    count, of = int(np.count_nonzero(result.standard[rare])), int(rare.sum())
    ours = f"{count} of {of} pixels that leave their median in fewer than 1 % of the training images"
    still = np.count_nonzero(result.standard[never & (result.correlation == 0)])
    note = (
        f"Of the {int(never.sum())} pixels that never change, {still} have a weight. Descent starts at zero here: a "
        "figure with weights on such pixels shows what its training started from."
    )
    claim = "The standard classifier gives weight even to background pixels."
    return (holds(claim, "Figure 2(a)", count > of / 2, ours, note),)


def _trade_off(result: Result) -> Finding:
    """Between all pixels and the fewer ones that are most robust."""
    best = int(result.top[: max(1, len(result.top) - 1), 1].argmax())
    (clean, robust), (all_clean, all_robust) = result.top[best].tolist(), result.top[-1].tolist()
    ours = (
        f"{result.counts[best]} → {_pixels(result.counts[-1])}: clean {_percent(clean)} → {_percent(all_clean)}, "
        f"robust {_percent(robust)} → {_percent(all_robust)}"
    )
    claim = "Beyond some number of pixels, more of them raise standard accuracy at the cost of robustness."
    differences = gain(clean, all_clean, result.n_test), gain(all_robust, robust, result.n_test)
    return all_above_zero(claim, "Figure 2(c)", differences, ours, "Standard training by descent.")


def _alternative(result: Result) -> Finding:
    """Against adversarial training by the same recipe; the count compared is the one that falls short of it least."""
    target = np.array(result.adversarial["descent"])
    best = int((result.top - target).min(1).argmax())
    clean, robust = result.top[best].tolist()
    differences = [gain(*rates, result.n_test) for rates in zip(target.tolist(), (clean, robust), strict=True)]
    ours = (
        f"{_pixels(result.counts[best])}: clean {_percent(clean)}, robust {_percent(robust)}; "
        f"adversarial training: {_percent(target[0])}, {_percent(target[1])}"
    )
    claim = "Standard training on the most correlated pixels alone does as well as adversarial training."
    note = (
        "By descent, both. The number of pixels is the best one on the test images. As well means that no 95% interval "
        f"of a difference lies below 0 or reaches {100 * _AS_WELL:.0f} points below: they are "
        + " and ".join(f"{100 * low:.1f} to {100 * high:.1f}" for _, low, high in differences)
        + " points, clean and robust."
    )
    return all_above_zero(claim, "Section 2.3, Figure 2(c)", differences, ours, note, _AS_WELL)


def _one_pixel(result: Result) -> Finding:
    pixel = int(np.argmax(np.abs(result.correlation)))
    clean, robust = (result.top_optimum if len(result.top_optimum) else result.top)[0]
    place = np.unravel_index(pixel, result.shape)
    return beyond(
        "A single pixel, the most correlated one, has this robust accuracy under standard training.",
        100 * float(robust),
        f"Row {place[1]}, column {place[2]}; clean {_percent(clean)}. Adversarial training on all pixels: robust "
        f"{_percent(result.reference[1])}, clean {_percent(result.reference[0])}.",
        "%",
    )


def _path(result: Result) -> tuple[Finding, ...]:
    vanishing = beyond(
        "From this eps on, adversarial training uses no pixel at all: its optimum is w = 0.",
        result.vanishing_eps,
        "Where the best pixel's gain at w = 0, after the adversary, is zero; exact, before any training.",
    )
    if not len(result.path):
        return (vanishing,)
    best = int(result.path_accuracy[:, 0].argmax())
    ours = (
        f"ε = {result.path[best]:g}: {_percent(result.path_accuracy[best, 0])} on {_pixels(result.path_pixels[best])}"
    )
    note = f"Standard training by descent: {_percent(result.top[-1, 0])} on {_pixels(len(result.optimum))}."
    if result.separable:
        note += f" No optimum (separable examples) at ε = {', '.join(f'{eps:g}' for eps in result.separable)}."
    claim = "Along the path of optima, standard accuracy is highest at this eps."
    return (vanishing, beyond(claim, ours, note))


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count:,} pixels"


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"
