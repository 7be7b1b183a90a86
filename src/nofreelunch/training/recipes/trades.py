"""TRADES: accuracy on x, and the same answer at z as at x."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe
from nofreelunch.types import Inputs, Labels, Logits, Model, PerExample

_BETA = 6.0  # weight of the second term, 1 / lambda; Zhang et al. 2019, Section 5.3, CIFAR-10


def kl_divergence(logits: Logits, reference: Logits) -> PerExample:
    """KL(softmax(reference) || softmax(logits)) of each row."""
    log_p, log_q = reference.log_softmax(1), logits.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def farthest(problem: InnerProblem) -> Chosen:
    """The last iterate of the attack, climbing the divergence of the answer from that at x."""
    with torch.no_grad():
        reference = problem.model(problem.x).float()

    def loss(logits: Logits, y: Labels) -> PerExample:
        return kl_divergence(logits, reference)

    return Chosen(replace(problem.attack, loss=loss).ascend(problem.model, problem.x, problem.y, problem.streams))


def accuracy_and_constancy(model: Model, problem: InnerProblem, z: Inputs) -> tuple[PerExample, Logits]:
    """Cross-entropy at x plus 6 times the divergence of the answer at z from that at x."""
    clean, moved = model(problem.x).float(), model(z).float()
    return F.cross_entropy(clean, problem.y, reduction="none") + _BETA * kl_divergence(moved, clean), moved


TRADES = Recipe(
    source=(
        'Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", equation (5); '
        "here the attack starts anywhere in the set, not next to x"
    ),
    examples=farthest,
    loss=accuracy_and_constancy,
    takes_attack=True,
)
