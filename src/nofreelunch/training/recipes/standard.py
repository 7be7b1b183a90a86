"""Standard training: the expected loss at the images as they are."""

from nofreelunch.training.recipes.base import InnerProblem, Recipe, cross_entropy
from nofreelunch.types import Inputs


def clean_images(problem: InnerProblem) -> Inputs:
    """x itself."""
    return problem.x


STANDARD = Recipe(
    source="Tsipras et al. 2018, equation (1): the case without a threat", examples=clean_images, loss=cross_entropy
)
