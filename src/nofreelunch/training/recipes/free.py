"""Adversarial training for free: the gradient that updates the weights updates the perturbation too."""

from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe, cross_entropy
from nofreelunch.types import Inputs

_REPLAYS = 8  # m; Shafahi et al. 2019, Section 4


def perturbed(problem: InnerProblem) -> Chosen:
    """x with the perturbation that the step before left, whatever image that was of."""
    return Chosen(problem.threat.project(problem.x + problem.delta, problem.x))


def further(problem: InnerProblem, z: Inputs, grad: Inputs) -> Inputs:
    """The perturbation after a step of eps up the training loss."""
    threat = problem.threat
    return threat.shrink(z - problem.x + threat.eps * threat.steepest(grad))


FREE = Recipe(
    source='Shafahi et al. 2019, "Adversarial training for free!", Algorithm 1',
    examples=perturbed,
    loss=cross_entropy,
    carry=further,
    replays=_REPLAYS,
)
