"""Adversarial training against PGD: what the paper does."""

from nofreelunch.training.recipes.base import InnerProblem, Recipe, cross_entropy
from nofreelunch.types import Inputs


def ascended(problem: InnerProblem) -> Inputs:
    """The last iterate of the attack."""
    return problem.attack.ascend(problem.model, problem.x, problem.y, problem.streams)


PGD_AT = Recipe(
    source='Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", equation (2.1)',
    examples=ascended,
    loss=cross_entropy,
    takes_attack=True,
)
