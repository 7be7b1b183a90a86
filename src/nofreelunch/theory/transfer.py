"""Transferability (end of Section 2.2): adversarial examples made against one linear classifier, given to another.

The strongest l_inf attack on a linear source is x' = x - y eps sign(w_source), whatever x is. So the score of a linear
target drops by eps sum_i w_target,i sign(w_source,i), and its accuracy is a closed form.
"""

import numpy as np
from numpy.typing import ArrayLike

from nofreelunch.theory.gaussian import GaussianModel, check_gaussian
from nofreelunch.theory.linear import LinearRule
from nofreelunch.theory.shapes import check_eps, check_weights


def transfer_accuracy(model: GaussianModel, w_source: ArrayLike, w_target: ArrayLike, eps: float) -> float:
    """Accuracy of sign(w_target.x) on the l_inf adversarial examples made against sign(w_source.x).

    Exact, given both weights. A feature that the source ignores (weight 0) is not moved.

    Args:
        w_source: d + 1 weights of the classifier that the examples are made against.
        w_target: d + 1 weights of the classifier that sees them.
        eps: radius, in [0, 1e3].

    Raises:
        InputError: if an argument is outside its range.
    """
    check_gaussian(model)
    eps = check_eps(eps)
    source = check_weights("w_source", w_source, model.d + 1)
    target = check_weights("w_target", w_target, model.d + 1)
    target = target / (np.abs(target).max() or 1.0)
    return LinearRule.dense(target).accuracy(model.eta, model.p, eps * float(np.sign(source) @ target))


def rule_transfer_accuracy(model: GaussianModel, source: LinearRule, target: LinearRule, eps: float) -> float:
    """`transfer_accuracy` between classifiers w1 x_1 + v z (`LinearRule.pooled`), without writing out d weights."""
    check_gaussian(model)
    shift = np.sign(source.w1) * target.w1 + np.sign(source.weak_sum) * target.weak_sum
    return target.accuracy(model.eta, model.p, check_eps(eps) * float(shift))
