"""A radius that no image is away from another is one in the wrong unit."""

from nofreelunch.data import Dataset
from nofreelunch.errors import InputError
from nofreelunch.threats import Threat


def check_reach(ball: Threat, data: Dataset) -> None:
    """An `InputError` if no two images of the data set are as far apart as the ball's radius."""
    reach = ball.spread(ball.width, data.train.x)
    if ball.eps > reach:
        hint = f"did you mean {ball.eps:g}/255 = {ball.eps / 255:.4g}?"
        raise InputError(f"eps={ball.eps:g}: images of {data.name} are at most {reach:.4g} apart; {hint}")
