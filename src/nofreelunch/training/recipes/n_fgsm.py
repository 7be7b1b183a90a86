"""One step from strong noise and no way back into the ball: cheap, and catastrophic overfitting sets in much later."""

from nofreelunch.attacks import LOSSES, loss_gradient
from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe, cross_entropy

_NOISE = 2.0  # eps; de Jorge et al. 2022, Section 4


def stepped_from_noise(problem: InnerProblem) -> Chosen:
    """x plus noise of up to 2 eps plus a step of eps, in the pixel box but not in the ball."""
    threat = problem.threat
    noisy = problem.x + _NOISE * threat.draw(problem.x, problem.streams)
    grad = loss_gradient(LOSSES["ce"], problem.model, noisy, problem.y)
    return Chosen(threat.clip(noisy + threat.eps * threat.steepest(grad)))


N_FGSM = Recipe(
    source='de Jorge et al. 2022, "Make some noise", Algorithm 1; here the step is taken in evaluation mode',
    examples=stepped_from_noise,
    loss=cross_entropy,
)
