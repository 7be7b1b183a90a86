"""Two ways in which adversarial training goes wrong while its loss looks well, seen on held-out images."""

import math
from collections.abc import Sequence

from nofreelunch.training.events import Epoch

_DROP = 0.02  # of held-out robust accuracy, that is worth a word
_ERRORS = 2.0  # standard errors that a drop must exceed besides
_COLLAPSE = 0.5  # share of its best that robust accuracy falls below when it collapses


def overfitting(history: Sequence[Epoch]) -> str | None:
    """What the last epoch shows, if it is the first to show it.

    Catastrophic overfitting (Wong et al. 2020, "Fast is better than free"): robust accuracy collapses while the
    accuracy under the training attack does not fall; the model has learnt to mislead that attack. Robust overfitting
    (Rice et al. 2020): robust accuracy falls from its best while the accuracy on the training images rises.

    Args:
        history: the epochs so far, at full eps or on the way to it.

    Returns:
        A sentence for the log, or None.
    """
    now = _finding(history)
    before = _finding(history[:-1])
    return now[1] if now and (before is None or before[0] != now[0]) else None


def _finding(history: Sequence[Epoch]) -> tuple[str, str] | None:
    """The name of what the last epoch shows, and a sentence on it."""
    if len(history) < 2:
        return None
    best, last = max(history, key=lambda epoch: epoch.score), history[-1]
    drop = best.robust - last.robust
    error = math.sqrt(2 * best.robust * (1 - best.robust) / last.held_out)
    if drop <= max(_DROP, _ERRORS * error) or last.train_accuracy < best.train_accuracy:
        return None
    name = "catastrophic overfitting" if last.robust < _COLLAPSE * best.robust else "robust overfitting"
    return name, (
        f"{name}: held-out robust accuracy fell from {best.robust:.1%} (epoch {best.epoch:g}) to {last.robust:.1%}, "
        f"while accuracy under the training attack went from {best.train_accuracy:.1%} to {last.train_accuracy:.1%}; "
        f"the weights of epoch {best.epoch:g} are kept"
    )
