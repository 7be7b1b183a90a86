"""Every exact quantity of the Gaussian model at one setting, ready for JSON; never NaN or infinity."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scipy.special import ndtr

from nofreelunch.errors import InputError
from nofreelunch.theory.bounds import robust_accuracy_bound
from nofreelunch.theory.frontier import frontier
from nofreelunch.theory.gaussian import GaussianModel
from nofreelunch.theory.linear import LinearRule
from nofreelunch.theory.shapes import check_eps
from nofreelunch.theory.svm import fit_svm, zero_from
from nofreelunch.theory.transfer import rule_transfer_accuracy


def summary(d: int, eta: float, p: float, eps: float) -> dict[str, Any]:
    """Accuracies, bound, frontiers, SVMs, thresholds and transfer for one setting.

    Works for any d: nothing of length d is built. In the place of what does not exist stands a sentence that says why.

    Args:
        d: number of weak features, 1 to 1e12.
        eta: mean of each weak feature, in [0, 1e3].
        p: how often x_1 agrees with the label, in [1e-12, 1).
        eps: radius of the adversary, in training and in testing, in [0, 1e3].

    Raises:
        InputError: if an argument is outside its range.
    """
    model = GaussianModel(d, eta, p)
    eps = check_eps(eps)
    svms = {"standard_svm": _svm(model, 0.0), "adversarial_svm": _svm(model, eps)}
    rules = {
        "x1_alone": LinearRule.pooled(1.0, 0.0, d),
        "average": LinearRule.pooled(0.0, 1.0, d),
        "bayes": model.bayes(),
        **{name: LinearRule.pooled(svm["w1"], svm["v"], d) for name, svm in svms.items() if isinstance(svm, dict)},
    }
    return {
        "model": {"d": d, "eta": float(eta), "p": float(p), "eps": eps, "mean_of_z": model.mu},
        "accuracy": {name: _accuracies(model, rule, eps) for name, rule in rules.items()},
        "theorem_2_1": _theorem_2_1(model, eps),
        "frontier": {"full": _frontier(model, eps, "full"), "weak": _frontier(model, eps, "weak")},
        "svm_of_unit_norm": svms,
        "thresholds": _thresholds(model),
        "transfer": {
            f"from_{source}": {
                f"to_{target}": rule_transfer_accuracy(model, rules[source], rules[target], eps) for target in rules
            }
            for source in rules
        },
    }


def _or_sentence(compute: Callable[[], dict[str, Any]]) -> dict[str, Any] | str:
    try:
        return compute()
    except InputError as reason:
        return str(reason)


def _svm(model: GaussianModel, eps: float) -> dict[str, Any] | str:
    return _or_sentence(lambda: asdict(fit_svm(model, eps=eps)))


def _accuracies(model: GaussianModel, rule: LinearRule, eps: float) -> dict[str, float]:
    return {
        "clean": model.rule_accuracy(rule, 0.0),
        "linf_full": model.rule_accuracy(rule, eps, "linf", "full"),
        "linf_weak": model.rule_accuracy(rule, eps, "linf", "weak"),
        "l2_full": model.rule_accuracy(rule, eps, "l2", "full"),
        "l2_weak": model.rule_accuracy(rule, eps, "l2", "weak"),
    }


def _theorem_2_1(model: GaussianModel, eps: float) -> dict[str, Any]:
    """The bound, and how far it lies above the exact frontier of eps = 2 eta at clean accuracies from max(p, 1 - p) up.

    That distance is (2 P - 1) / (1 - P) Phi(-mu - c), P = max(p, 1 - p), for h_c; largest at the most accurate one.
    """
    most, least = max(model.p, 1 - model.p), min(model.p, 1 - model.p)
    bayes = model.bayes()
    opposite = LinearRule.pooled(-bayes.w1, -bayes.weak_l2, model.d)  # it is right where Bayes' is wrong
    c = abs(bayes.w1) / bayes.weak_l2 if bayes.weak_l2 > 0 else math.inf
    return {
        "factor": max(model.p / (1 - model.p), (1 - model.p) / model.p),
        "holds_from_eps": 2 * model.eta,
        "holds_here": eps >= 2 * model.eta,
        "bound_at_most_clean_accuracy": robust_accuracy_bound(model.rule_accuracy(opposite, 0.0), model.p),
        "attained_at_clean_accuracy": most,
        "largest_gap_to_frontier_at_2_eta": (most - least) / least * float(ndtr(-model.mu - c)),
    }


def _frontier(model: GaussianModel, eps: float, adversary: str) -> dict[str, Any] | str:
    def compute() -> dict[str, Any]:
        clean, robust = (axis.tolist() for axis in frontier(model, eps, adversary, points=101))
        return {
            "most_robust": {"clean_accuracy": clean[0], "robust_accuracy": robust[0]},
            "most_accurate": {"clean_accuracy": clean[-1], "robust_accuracy": robust[-1]},
            "clean_accuracy": clean,
            "robust_accuracy": robust,
        }

    return _or_sentence(compute)


def _thresholds(model: GaussianModel) -> dict[str, Any]:
    zero = zero_from(model)
    empty = f"empty: it asks for 2 eta = {2 * zero.v!r} <= eps < |2p - 1| = {zero.w1!r}"
    return {
        "weak_weights_zero_from_eps": zero.v,
        "x1_weight_zero_from_eps": zero.w1,
        "theorem_2_2_window": [2 * zero.v, zero.w1] if 2 * zero.v < zero.w1 else empty,
        "x1_alone_optimal": [zero.v, zero.w1] if zero.v < zero.w1 else "never: the weight of x_1 vanishes first",
    }
