"""PGD adversarial training that takes most of its steps on the examples that are nearest to being lost."""

from nofreelunch.attacks.base import take
from nofreelunch.attacks.losses import ce
from nofreelunch.training.recipes.base import InnerProblem, Recipe, cross_entropy
from nofreelunch.types import Inputs

_LOOK, _SHARE = 2, 0.25
"""Steps that all examples get, and the share of them that gets the rest."""


def ascended_where_it_matters(problem: InnerProblem) -> Inputs:
    """The last iterate of the attack for the quarter of the examples with the highest loss; the second for all others.

    The loss is that after the first step, which the second one has seen.
    """
    attack, model, y = problem.attack, problem.model, problem.y
    state = attack.start(model, problem.x, y, problem.streams)
    for count in range(min(_LOOK, attack.steps)):
        state, logits = attack.step(model, state, count)
    hardest = ce(logits.float(), y).topk(max(1, round(_SHARE * len(y)))).indices
    some = take(state, hardest)
    for count in range(_LOOK, attack.steps):
        some, _ = attack.step(model, some, count)
    return state.z.index_copy(0, hardest, some.z)


BULLET_TRAIN = Recipe(
    source=(
        'Hua et al. 2021, "BulletTrain: accelerating robust neural network training via boundary example mining"; '
        "here the share that is worked on is fixed, and what is lost already belongs to it"
    ),
    examples=ascended_where_it_matters,
    loss=cross_entropy,
    takes_attack=True,
)
