"""Adversarial training against PGD: what the paper does."""

from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe, cross_entropy


def ascended(problem: InnerProblem) -> Chosen:
    """The last iterate of the attack."""
    return Chosen(problem.attack.ascend(problem.model, problem.x, problem.y, problem.streams))


PGD_AT = Recipe(
    source='Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", equation (2.1)',
    examples=ascended,
    loss=cross_entropy,
    takes_attack=True,
)
