"""Adversarial examples with room to change an image for good."""

from nofreelunch.attacks import PGD
from nofreelunch.attacks.door import attacking, check_batch, first_logits
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Model

_RELEASED = {"l2": (40, 1.5 / 40), "linf": (120, 0.003 / 0.25)}
"""Steps, and step size over eps, of the authors' released code: 40 of 1.5 at eps 40, 120 of 0.003 at eps 0.25."""


def large_eps_attack(threat: Threat) -> PGD:
    """The gradient ascent that draws Figures 3, 6 and 7 in the authors' released code; it starts from x itself.

    Steps scale with eps. The released code clips to the pixel box and then projects onto the ball; ours takes the
    nearest point of both at once.
    """
    steps, share = _RELEASED.get(threat.norm, _RELEASED["l2"])
    return PGD(threat, steps=steps, step_size=share * threat.eps, random_start=False)


def large_eps_examples(model: Model, x: Inputs, y: Labels, threat: Threat) -> Inputs:
    """For each input the point of high loss where gradient ascent ends, however early the model was wrong.

    Tsipras et al. 2018, Section 3.1 and Appendix A.4, which takes eps from Table 3.

    Args:
        model: maps inputs to logits (n, k), k >= 2; used in evaluation mode and left as it was found.
        x: float inputs in the threat's box.
        y: class indices to move away from.
        threat: the set, usually much larger than the one of the model's training.

    Raises:
        InputError: if model, inputs and labels do not go together.
    """
    y = check_batch(model, x, y, threat.box)
    if threat.eps == 0 or len(x) == 0:
        return x.detach().clone()
    streams = Streams.numbered(0, len(x), x.device)  # nothing is drawn: no random start
    with attacking(model, x.device) as precise:
        first_logits(precise, x, y)
        return large_eps_attack(threat).ascend(precise, x.detach(), y, streams).detach()
