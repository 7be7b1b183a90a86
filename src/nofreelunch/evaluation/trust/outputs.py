"""What the model's answers alone give away, before it is attacked.

Sources: Carlini et al. 2019, "On evaluating adversarial robustness"; Tramer et al. 2020, "On adaptive attacks"; the
checks of AutoAttack (Croce and Hein 2020); Pintor et al. 2022, "Indicators of attack failure".
"""

from functools import partial

import torch

from nofreelunch.attacks.losses import misclassified
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.subject import attempted
from nofreelunch.evaluation.trust.probe import Probe, behind, counted
from nofreelunch.threats import expand

_BETTER = 0.25
"""So much more accurate is a model on inputs in another range if that is its own."""


def discontinuous(probe: Probe) -> Flag | None:
    """Whether the answer jumps beside the examples: a millionth of a grey level changes it like a whole one does.

    Carlini et al. 2019, section 4.4: inputs between the 8-bit levels must be treated like any other.
    """
    x, scale = probe.x, probe.near - probe.x
    if not scale.any():
        return None
    logits = probe.subject.logits(x)
    length = expand(scale.abs().flatten(1).amax(1).clamp(min=1e-12), x)
    near, far = (probe.subject.logits(x + scale / length * step * probe.width) for step in (2e-5, 4e-3))
    jump, change = ((behind(each) - behind(logits)).double().abs().amax(1) for each in (near, far))
    spread = (logits.amax(1) - logits.amin(1)).double()
    jumps = (jump > 0.3 * change) & (jump > 0.01 * spread)
    if jumps.double().mean() < 0.25:
        return None
    return Flag(
        "discontinuous",
        f"on {counted(jumps)} examples a change of {2e-5 * probe.width:g} moves the answer as much as one of "
        f"{4e-3 * probe.width:g}",
        "the model tells data from other inputs; examples were also looked for among 8-bit images",
    )


def probabilities(probe: Probe) -> Flag | None:
    """Softmax instead of logits: saturates, and hides by how much (cleverhans issue 350; AutoAttack's check)."""
    logits = probe.subject.logits(probe.x)
    sums = logits.sum(1)
    if not ((logits >= 0).all() and ((sums - 1).abs() < 1e-3).all()):
        return None
    return Flag("probabilities", "every answer is non-negative and sums to 1", "return logits: remove the last softmax")


def constant_output(probe: Probe) -> Flag | None:
    """Whether the input is read at all."""
    logits = probe.subject.logits(probe.x)
    if len(logits) < 2 or (logits != logits[:1]).any() or len(set(probe.y.tolist())) < 2:
        return None
    return Flag(
        "constant-output", f"{len(logits)} different inputs have one answer", "the model does not read its input"
    )


def half_precision(probe: Probe) -> Flag | None:
    """Weights in half precision: gradients underflow, and ties are frequent."""
    if probe.subject.dtype not in (torch.float16, torch.bfloat16):
        return None
    return Flag(
        "half-precision",
        f"the model's weights are {str(probe.subject.dtype).removeprefix('torch.')}",
        "evaluate model.float()",
    )


def wrong_range(probe: Probe) -> Flag | None:
    """Whether the model does much better on the same inputs in another range: normalisation is missing or doubled."""
    x, y = probe.x, probe.y
    if len(x) < 16:
        return None
    mean, std = x.mean(), x.std().clamp(min=1e-6)
    others = {
        "multiplied by 255": x * 255,
        "scaled to [-1, 1]": 2 * x - 1,
        "normalised to mean 0 and deviation 1": (x - mean) / std,
    }
    here = (~misclassified(probe.subject.logits(x), y)).double().mean()
    if here >= 1 - _BETTER:  # it could do no better: it is not asked what it may not be made for
        return None
    for name, z in others.items():
        logits = attempted(partial(probe.subject.logits, z))  # the model may refuse such inputs, rightly
        there = here if logits is None else (~misclassified(logits, y)).double().mean()
        if there > here + _BETTER:
            return Flag(
                "input-range",
                f"on {len(x)} examples accuracy is {here:.0%}, and {there:.0%} when they are {name}",
                "put the model's normalisation inside the model",
            )
    return None
