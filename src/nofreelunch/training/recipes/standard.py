"""Standard training: the expected loss at the images as they are."""

from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe, cross_entropy


def clean_images(problem: InnerProblem) -> Chosen:
    """x itself."""
    return Chosen(problem.x)


STANDARD = Recipe(
    source="Tsipras et al. 2018, equation (1): the case without a threat", examples=clean_images, loss=cross_entropy
)
