"""Ways to train: which examples a step trains on, and by what loss.

All of them minimise E[max over z in threat(x) of loss(model(z), y)] (Tsipras et al. 2018, equation (2)) or a stand-in
for it, and differ in how they look for z. The loop around them is one (`training/loop.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from nofreelunch.attacks import PGD, loss_gradient
from nofreelunch.attacks.base import take
from nofreelunch.attacks.losses import ce
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Logits, Model, PerExample

_LOOK, _SHARE = 2, 0.25  # of `bullet-train`: steps that all examples get, and the share of them that gets the rest
_STEP = 1.25  # of `fgsm-rs`, in eps; Wong et al. 2020, Section 4
_NOISE = 2.0  # of `n-fgsm`, in eps; de Jorge et al. 2022, Section 4
_REPLAYS = 8  # of `free`: m; Shafahi et al. 2019, Section 4
_BETA = 6.0  # of `trades`: weight of the second term, 1 / lambda; Zhang et al. 2019, Section 5.3, CIFAR-10


@dataclass(frozen=True)
class InnerProblem:
    """The inner maximisation of one step.

    Args:
        model: the one in training, frozen and in evaluation mode.
        attack: the training attack, for this step's threat.
        x: clean images, augmented.
        streams: the examples' random numbers for this step.
        delta: what `Recipe.carry` returned in the step before, zeros at first.
    """

    model: Model
    attack: PGD
    x: Inputs
    y: Labels
    streams: Streams
    delta: Inputs

    @property
    def threat(self) -> Threat:
        """This step's: its eps is below the config's while eps rises."""
        return self.attack.threat


def cross_entropy(model: Model, problem: InnerProblem, z: Inputs) -> tuple[PerExample, Logits]:
    """The cross-entropy of the labels at z."""
    logits = model(z).float()
    return F.cross_entropy(logits, problem.y, reduction="none"), logits


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Args:
        examples: the problem's z: what to train on instead of x.
        loss: of the model in training mode, for the problem and its z: a loss for each example, and the logits of z.
        takes_attack: whether the config's attack is used.
        carry: from the problem, z and the gradient of the training loss with respect to z to the next step's `delta`;
            None where a step hands nothing on.
        replays: steps made on each batch.
    """

    examples: Callable[[InnerProblem], Inputs]
    loss: Callable[[Model, InnerProblem, Inputs], tuple[PerExample, Logits]] = cross_entropy
    takes_attack: bool = False
    carry: Callable[[InnerProblem, Inputs, Inputs], Inputs] | None = None
    replays: int = 1


def clean_images(problem: InnerProblem) -> Inputs:
    """x itself (Tsipras et al. 2018, equation (1): the case without a threat)."""
    return problem.x


def ascended(problem: InnerProblem) -> Inputs:
    """The last iterate of the attack (Madry et al. 2018, equation (2.1)): what the paper does."""
    return problem.attack.ascend(problem.model, problem.x, problem.y, problem.streams)


def ascended_where_it_matters(problem: InnerProblem) -> Inputs:
    """The last iterate of the attack for the quarter of the examples with the highest loss; the second for all others.

    The loss is that after the first step, which the second one has seen. Hua et al. 2021, "BulletTrain: accelerating
    robust neural network training via boundary example mining"; here the share that is worked on is fixed, and what is
    lost already belongs to it.
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


def stepped(problem: InnerProblem) -> Inputs:
    """A step of 1.25 eps from a random point of the set, and back into it: twice the cost of standard training.

    Wong et al. 2020, "Fast is better than free", Algorithm 3; here the step is taken in evaluation mode.
    """
    one_step = PGD(problem.threat, steps=1, step_size=_STEP * problem.threat.eps)
    return one_step.ascend(problem.model, problem.x, problem.y, problem.streams)


def stepped_from_noise(problem: InnerProblem) -> Inputs:
    """x plus noise of up to 2 eps plus a step of eps, in the pixel box but not in the ball.

    As cheap, and catastrophic overfitting sets in much later. de Jorge et al. 2022, "Make some noise", Algorithm 1;
    here the step is taken in evaluation mode.
    """
    threat = problem.threat
    noisy = problem.x + _NOISE * threat.draw(problem.x, problem.streams)
    grad = loss_gradient(ce, problem.model, noisy, problem.y)
    return threat.clip(noisy + threat.eps * threat.steepest(grad))


def perturbed(problem: InnerProblem) -> Inputs:
    """x with the perturbation that the step before left, whatever image that was of.

    Shafahi et al. 2019, "Adversarial training for free!", Algorithm 1: the gradient that updates the weights updates
    the perturbation too.
    """
    return problem.threat.project(problem.x + problem.delta, problem.x)


def further(problem: InnerProblem, z: Inputs, grad: Inputs) -> Inputs:
    """The perturbation after a step of eps up the training loss."""
    threat = problem.threat
    return threat.shrink(z - problem.x + threat.eps * threat.steepest(grad))


def kl_divergence(logits: Logits, reference: Logits) -> PerExample:
    """KL(softmax(reference) || softmax(logits)) of each row."""
    log_p, log_q = reference.log_softmax(1), logits.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def farthest(problem: InnerProblem) -> Inputs:
    """The last iterate of the attack, climbing the divergence of the answer from that at x.

    Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", equation (5); here the
    attack starts anywhere in the set, not next to x.
    """
    with torch.no_grad():
        reference = problem.model(problem.x).float()

    def loss(logits: Logits, y: Labels) -> PerExample:
        return kl_divergence(logits, reference)

    return replace(problem.attack, loss=loss).ascend(problem.model, problem.x, problem.y, problem.streams)


def accuracy_and_constancy(model: Model, problem: InnerProblem, z: Inputs) -> tuple[PerExample, Logits]:
    """Cross-entropy at x plus 6 times the divergence of the answer at z from that at x."""
    clean, moved = model(problem.x).float(), model(z).float()
    return F.cross_entropy(clean, problem.y, reduction="none") + _BETA * kl_divergence(moved, clean), moved


RECIPES: dict[str, Recipe] = {
    "standard": Recipe(clean_images),
    "pgd-at": Recipe(ascended, takes_attack=True),
    "bullet-train": Recipe(ascended_where_it_matters, takes_attack=True),
    "fgsm-rs": Recipe(stepped),
    "n-fgsm": Recipe(stepped_from_noise),
    "free": Recipe(perturbed, carry=further, replays=_REPLAYS),
    "trades": Recipe(farthest, accuracy_and_constancy, takes_attack=True),
}
"""By name."""
