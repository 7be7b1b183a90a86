"""What the model's answers alone give away, before it is attacked.

Sources: Carlini et al. 2019, "On evaluating adversarial robustness"; Tramer et al. 2020, "On adaptive attacks"; the
checks of AutoAttack (Croce and Hein 2020); Pintor et al. 2022, "Indicators of attack failure".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nofreelunch.attacks.losses import misclassified
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.subject import Subject, as_in_use, twin
from nofreelunch.evaluation.trust.memory import changed_places, fingerprint
from nofreelunch.types import Inputs, Labels

_CALLS = 40
_BETTER = 0.25
"""So much more accurate is a model on inputs in another range if that is its own."""
_TOLERANCE = 1e-3
"""Answers are the same if they differ by less than this share of their spread: kernels round differently."""


@dataclass(frozen=True)
class Probe:
    """What the checks look at.

    Args:
        subject: the model.
        x: some examples.
        y: their labels.
        near: a random point of the threat's set around each, so that what shows only off the data is seen as well.
        width: of the pixels' range.
    """

    subject: Subject
    x: Inputs
    y: Labels
    near: Inputs
    width: float = 1.0

    @property
    def both(self) -> Inputs:
        """The examples and the points near them."""
        return torch.cat([self.x, self.near])


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Which rows of logits are not the same; (n,)."""
    a, b = a.double(), b.double()
    finite = torch.where(b.isfinite(), b, 0)
    spread = (finite.amax(1) - finite.amin(1)).clamp(min=torch.finfo(torch.float64).tiny)
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0, (a - b).abs().nan_to_num(nan=torch.inf)).amax(1)
    return gap > _TOLERANCE * spread


def share(mask: Tensor) -> str:
    """A mask in words."""
    return f"{int(mask.sum())} of {len(mask)}"


def memory(probe: Probe) -> tuple[bool, list[Flag]]:
    """Whether a call leaves something behind in the model, and what that does.

    Carlini et al. 2019, section 5.6: a stateful defence must be attacked as one that knows the state.
    """
    subject = probe.subject
    used = twin(subject.pristine)
    x = probe.x.to(subject.dtype)
    with as_in_use(x.device, used), torch.no_grad():
        before = fingerprint(used)
        used(x.clone())
        changed = changed_places(before, fingerprint(used))
        if not changed:
            return False, []
        if used is subject.pristine:  # there is no fresh copy to hold it against
            return True, [_uncopied(changed[0])]
        for count in range(_CALLS):
            used((x if count % 2 else probe.near.to(subject.dtype)).clone())
        after = used(probe.both.to(subject.dtype)).float()
    fresh = twin(subject.pristine)
    with as_in_use(x.device, fresh), torch.no_grad():
        first = fresh(probe.both.to(subject.dtype)).float()
    found = (_training_layers(used, changed), _forgetful(differs(after, first), changed[0]))
    return True, [flag for flag in found if flag]


def _training_layers(used: Any, changed: list[str]) -> Flag | None:
    """Whether what a call changed is a buffer: the running statistics of a layer that is in training mode."""
    buffers = {name.rsplit(".", 1)[-1] for name, _ in used.named_buffers()} if isinstance(used, nn.Module) else set()
    statistics = [place for place in changed if place.rsplit(".", 1)[-1] in buffers]
    if not statistics:
        return None
    return Flag(
        "training-layers",
        f"a call changes {statistics[0].strip('.')} in evaluation mode",
        "layers must be in evaluation mode: override neither train() nor eval()",
    )


def _uncopied(place: str) -> Flag:
    return Flag(
        "stateful",
        f"a call changes {place.strip('.') or 'what it holds'}, and the model cannot be copied",
        "let copy.deepcopy copy it, or make the model a function",
    )


def _forgetful(different: Tensor, place: str) -> Flag | None:
    """Whether a used model answers otherwise than a fresh one."""
    if not different.any():
        return None
    return Flag(
        "stateful",
        f"after {_CALLS} calls {share(different)} answers are not those of a fresh copy's; "
        f"a call changes {place.strip('.') or 'what it holds'}",
        "the figure is that of a fresh copy at every call; make the model a function",
    )


def randomised(probe: Probe) -> Flag | None:
    """Two calls with one input, AutoAttack's first check; Athalye et al. 2018, section 4.2."""
    x = probe.both
    first = probe.subject.logits(x)
    different = torch.stack([differs(probe.subject.logits(x), first) for _ in range(2)]).any(0)
    if not different.any():
        return None
    return Flag(
        "randomised",
        f"two calls with one input differ on {share(different)} inputs",
        "the figure is the mean over 100 fresh draws, attacked in the mean; fix the randomness to have a function",
    )


def batch_dependent(probe: Probe) -> Flag | None:
    """Whether an example's answer depends on its neighbours (batch-norm in training mode and the like)."""
    x = probe.both
    whole, order = probe.subject.logits(x), torch.arange(len(x)).flip(0)
    parts = torch.cat(
        [probe.subject.logits(x[part]) for part in torch.split(torch.arange(len(x)), max(2, min(7, len(x) // 2)))]
    )
    different = differs(parts, whole) | differs(probe.subject.logits(x[order])[order], whole)
    if not different.any():
        return None
    return Flag(
        "batch-dependent",
        f"{share(different)} answers change with the other examples of the batch",
        "put all layers in evaluation mode and use no statistics of the batch",
    )


def watches_gradients(probe: Probe) -> Flag | None:
    """Whether the model answers differently when it is differentiated."""
    x = probe.both
    try:
        with torch.enable_grad():
            seen = probe.subject.differentiable(x.clone().requires_grad_()).detach()
    except (RuntimeError, TypeError, ValueError) as error:
        return Flag(
            "not-differentiable",
            f"differentiating fails: {' '.join(str(error).split())[:120]}",
            "gradients were taken from stand-ins and from answers alone",
        )
    different = differs(seen, probe.subject.logits(x))
    if not different.any():
        return None
    return Flag(
        "watches-gradients",
        f"{share(different)} answers change when gradients are asked for",
        "it was attacked through a stand-in; make the answer independent of the gradient mode",
    )


def optimises_inside(probe: Probe) -> Flag | None:
    """Whether a forward pass differentiates: an optimisation loop, AutoAttack's check of dynamic defences."""
    with _counting() as calls:
        probe.subject.logits(probe.x)
    if not calls:
        return None
    return Flag(
        "optimises-inside",
        f"one forward pass differentiates {len(calls)} times",
        "attack the loop itself (Croce et al. 2022, adaptive test-time defences)",
    )


@contextmanager
def _counting() -> Iterator[list[str]]:
    """The calls of autograd inside the block."""
    calls: list[str] = []
    before = torch.autograd.grad, torch.autograd.backward

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(function.__name__)
            return function(*args, **kwargs)

        return call

    torch.autograd.grad, torch.autograd.backward = counted(before[0]), counted(before[1])
    try:
        yield calls
    finally:
        torch.autograd.grad, torch.autograd.backward = before


def discontinuous(probe: Probe) -> Flag | None:
    """Whether the answer jumps beside the examples: a millionth of a grey level changes it like a whole one does.

    Carlini et al. 2019, section 4.4: inputs between the 8-bit levels must be treated like any other.
    """
    x, scale = probe.x, probe.near - probe.x
    if not scale.any():
        return None
    logits = probe.subject.logits(x)
    length = scale.abs().flatten(1).amax(1).clamp(min=1e-12).reshape(-1, *[1] * (x.dim() - 1))
    small, large = (probe.subject.logits(x + scale / length * step * probe.width) - logits for step in (2e-5, 4e-3))
    spread = (logits.amax(1) - logits.amin(1)).double()
    jump, change = small.double().abs().amax(1), large.double().abs().amax(1)
    jumps = (jump > 0.3 * change) & (jump > 0.01 * spread)
    if jumps.double().mean() < 0.25:
        return None
    return Flag(
        "discontinuous",
        f"on {share(jumps)} examples a change of {2e-5 * probe.width:g} moves the answer as much as one of "
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
    mean, std = x.mean(), x.std().clamp(min=1e-6)
    others = {
        "multiplied by 255": x * 255,
        "scaled to [-1, 1]": 2 * x - 1,
        "normalised to mean 0 and deviation 1": (x - mean) / std,
    }
    here = (~misclassified(probe.subject.logits(x), y)).double().mean()
    if len(x) < 16 or here >= 1 - _BETTER:  # it could do no better: it is not asked what it may not be made for
        return None
    for name, z in others.items():
        try:
            there = (~misclassified(probe.subject.logits(z), y)).double().mean()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the model refuses such inputs, rightly
            continue
        if there > here + _BETTER:
            return Flag(
                "input-range",
                f"on {len(x)} examples accuracy is {here:.0%}, and {there:.0%} when they are {name}",
                "put the model's normalisation inside the model",
            )
    return None


COMPARING = (batch_dependent, watches_gradients, discontinuous)
"""Checks that compare answers: they say nothing about a model whose answers are random."""

CHECKS = (*COMPARING, optimises_inside, probabilities, constant_output, half_precision, wrong_range)
"""What is asked of every model, beside `memory` and `randomised`."""
