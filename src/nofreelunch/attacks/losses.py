"""What an attack climbs: one value per example, larger is worse for the model.

Only the direction of the gradient and the order of values matter to an attack, so each loss may be any increasing
function of the one it is named after. The logits come in at least float32.
"""

import torch
from torch import Tensor

from nofreelunch.errors import InputError, check_known
from nofreelunch.types import Labels, Logits, Loss, Mask, PerExample


def _others(logits: Logits, y: Labels) -> Logits:
    """The logits with the one of class y struck out."""
    return logits.scatter(1, y[:, None], float("-inf"))


def _of(logits: Logits, y: Labels) -> PerExample:
    return logits.gather(1, y[:, None]).squeeze(1)


def margin(logits: Logits, y: Labels) -> PerExample:
    """The best wrong logit minus the true one: above 0 where the example is misclassified."""
    return _others(logits, y).amax(1) - _of(logits, y)


def misclassified(logits: Logits, y: Labels) -> Mask:
    """Whether the largest logit is not y's. NaN among the logits is a failure of the model, never a correct answer."""
    return (logits.argmax(1) != y) | logits.isnan().any(1)


def ce(logits: Logits, y: Labels) -> PerExample:
    """Cross-entropy, as the log-odds of a wrong answer, log((1 - p_y) / p_y).

    Cross-entropy is its softplus, so the gradients point the same way and the order is the same; but this one never
    saturates, where the gradient of cross-entropy underflows to zero on confident models and the attack stands still.
    """
    return _others(logits, y).logsumexp(1) - _of(logits, y)


def dlr(logits: Logits, y: Labels) -> PerExample:
    """Difference of logits ratio, -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)); Croce and Hein 2020, equation 6.

    Below 4 classes the margin takes its place: with 2 there is no third-largest logit, with 3 it is the smallest, and
    the targeted ratio needs 4.
    """
    if logits.shape[1] < 4:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / _positive(top[:, 0] - top[:, 2])


def lead(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """The target's logit minus the true one."""
    return _of(logits, target) - _of(logits, y)


def dlr_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """DLR towards a class t, -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2); Croce and Hein 2020, equation 7.

    Below 4 classes its numerator alone.
    """
    if logits.shape[1] < 4:
        return lead(logits, y, target)
    top = logits.topk(4, dim=1).values
    return lead(logits, y, target) / _positive(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def _positive(width: Tensor) -> Tensor:
    """A denominator that is never zero."""
    return width.clamp(min=torch.finfo(width.dtype).tiny)


LOSSES: dict[str, Loss] = {"ce": ce, "margin": margin, "dlr": dlr}
TARGETED = "dlr-targeted"
"""The name of `dlr_targeted`, which is none of them: it wants a target."""


def named_loss(loss: str | Loss) -> Loss:
    """A loss from its name in `LOSSES`; a callable is itself one.

    Raises:
        InputError: if the name is unknown, or that of a loss which wants a target.
    """
    if callable(loss):
        return loss
    check_known("loss", loss, [*LOSSES, TARGETED])
    if loss == TARGETED:
        raise InputError(f'loss "{loss}" wants a target, which APGD chooses; known here: {", ".join(LOSSES)}')
    return LOSSES[loss]
