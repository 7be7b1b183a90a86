"""PGD adversarial training that works on the examples that are nearest to being lost."""

from jaxtyping import Int64
from torch import Tensor

from nofreelunch.attacks.base import take
from nofreelunch.attacks.losses import ce
from nofreelunch.training.recipes.base import Chosen, InnerProblem, Recipe, cross_entropy
from nofreelunch.types import Labels, Logits

_HALF, _QUARTER = 0.5, 0.25
"""Shares of the examples that get a second step and are trained on, and that get all steps."""


def ascended_where_it_matters(problem: InnerProblem) -> Chosen:
    """The half of the examples with the highest loss after the attack's first step: what the second makes of them.

    Of the quarter with the highest loss after that, the last iterate. The loss after a step is what the next one sees,
    and costs nothing: that of the first is the one where the attack starts.
    """
    attack, y = problem.attack, problem.y
    every, logits = attack.step(problem.model, attack.start(problem.model, problem.x, y, problem.streams), 0)
    rows = _hardest(logits, y, _HALF)
    half = take(every, rows)
    if attack.steps > 1:
        half, logits = attack.step(problem.model, half, 1)
        hardest = _hardest(logits, y[rows], _QUARTER / _HALF)
        quarter = take(half, hardest)
        for count in range(2, attack.steps):
            quarter, _ = attack.step(problem.model, quarter, count)
        return Chosen(half.z.index_copy(0, hardest, quarter.z), rows)
    return Chosen(half.z, rows)


def _hardest(logits: Logits, y: Labels, share: float) -> Int64[Tensor, " m"]:
    """The rows of the highest losses."""
    return ce(logits.float(), y).topk(max(1, round(share * len(y)))).indices


BULLET_TRAIN = Recipe(
    source=(
        'Hua et al. 2021, "BulletTrain: accelerating robust neural network training via boundary example mining"; '
        "here the shares that are worked on are fixed, what is lost already belongs to them, and what is far from "
        "being lost is not trained on either"
    ),
    examples=ascended_where_it_matters,
    loss=cross_entropy,
    takes_attack=True,
)
