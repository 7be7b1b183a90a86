"""One step from a random start: adversarial training at twice the cost of standard training."""

from nofreelunch.attacks import PGD
from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe, cross_entropy

_STEP = 1.25  # eps; Wong et al. 2020, Section 4


def stepped(problem: InnerProblem) -> Chosen:
    """A step of 1.25 eps from a random point of the set, and back into it."""
    one_step = PGD(problem.threat, steps=1, step_size=_STEP * problem.threat.eps)
    return Chosen(one_step.ascend(problem.model, problem.x, problem.y, problem.streams))


FGSM_RS = Recipe(
    source='Wong et al. 2020, "Fast is better than free", Algorithm 3; here the step is taken in evaluation mode',
    examples=stepped,
    loss=cross_entropy,
)
