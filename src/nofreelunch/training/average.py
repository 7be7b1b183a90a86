"""A running average of a model's weights."""

import copy

import torch

from nofreelunch.models import Classifier


def average_of(model: Classifier) -> Classifier:
    """A copy of the model for `update_average` to follow it."""
    average = copy.deepcopy(model)
    return average.requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: Classifier, model: Classifier, decay: float, updates: int) -> None:
    """Move `average` towards `model`: average <- d average + (1 - d) model, with d = min(decay, (1 + t) / (10 + t)).

    The bound on d lets the average forget the initial weights, as in TensorFlow's `ExponentialMovingAverage`; whole
    numbers (batch-norm's counter) are copied.

    Args:
        average: from `average_of`; changed in place.
        decay: in [0, 1).
        updates: t, the number of updates before this one.
    """
    weight = 1 - min(decay, (1 + updates) / (10 + updates))
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    real = [pair for pair in pairs if pair[0].is_floating_point()]
    if real:  # all at once: on a GPU each operation of its own has to be launched
        torch._foreach_lerp_([mine for mine, _ in real], [theirs for _, theirs in real], weight)
    for mine, theirs in pairs:
        if not mine.is_floating_point():
            mine.copy_(theirs)
