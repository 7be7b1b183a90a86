"""Whether the model is a function of its input: not of chance, of earlier calls, of the batch, or of who asks.

Sources: Carlini et al. 2019, "On evaluating adversarial robustness"; Tramer et al. 2020, "On adaptive attacks"; the
checks of AutoAttack (Croce and Hein 2020); Croce et al. 2022, "Evaluating the adversarial robustness of adaptive
test-time defenses".
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nofreelunch.attacks.door import as_tensor, out_of_memory
from nofreelunch.attacks.gradient import value_and_gradient
from nofreelunch.attacks.losses import ce
from nofreelunch.errors import reason
from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.unseen import replaced
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.subject import as_in_use, attempted
from nofreelunch.evaluation.trust.memory import changed_places, fingerprint, only_drew
from nofreelunch.evaluation.trust.probe import Probe, behind, counted, differs
from nofreelunch.models.copying import copy_of
from nofreelunch.models.tracing import operation_name

_CALLS = 40
"""More than a warm-up lasts: so often is a model asked before it is compared with a fresh copy."""
_ALONE = 8
"""So many examples are asked about one at a time, or many times."""
_WAYS_OUT = {"numpy", "__array__", "tolist", "__dlpack__"}
"""Methods of a tensor by which its values leave torch."""
_DRAWS = 12
"""Of two answers that are equally likely both are seen in so many calls, but once in 4,000 times."""


def statefulness(probe: Probe) -> tuple[bool, list[Flag]]:
    """Whether a call leaves something behind in the model, and what that does.

    Carlini et al. 2019, section 5.6: a stateful defence must be attacked as one that knows the state.
    """
    subject, x = probe.subject, probe.x
    used = copy_of(subject.pristine)
    before = fingerprint(used)
    answer = subject.ask(used, x)
    changed = changed_places(before, fingerprint(used))
    if not changed:
        return False, []
    drew, alone = only_drew(before, changed), used is subject.pristine
    if alone and not drew:  # there is no fresh copy to hold it against
        return True, [_uncopied(changed[0])]
    varied = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for count in range(_CALLS):
        if count % 2:
            varied |= differs(subject.ask(used, x), answer)
        else:
            subject.ask(used, probe.near)
    if drew and varied.any():  # randomness, not memory: `randomised` says so
        return False, []
    if alone:
        return True, [_uncopied(changed[0])]
    forgotten = differs(subject.ask(used, probe.both), subject.ask(copy_of(subject.pristine), probe.both))
    forgotten[: len(x)] |= varied
    if drew and not forgotten.any():  # what was drawn shows nowhere
        return False, []
    found = (_training_layers(used, changed), _forgetful(forgotten, changed[0]))
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
        f"within {_CALLS} calls {counted(different)} answers are not those of a fresh copy's; "
        f"a call changes {place.strip('.') or 'what it holds'}",
        "the figure is that of a fresh copy at every call; make the model a function",
    )


def changed(then: Tensor, now: Tensor, beside: tuple[Tensor, Tensor]) -> Flag | None:
    """Whether the answers of the beginning are not those of the end: there is memory outside of what a model holds.

    Args:
        then: answers at the beginning.
        now: answers at the end, to the same points: they may be known again.
        beside: answers at the end, to points a little above these and to others a little below: a step of the scores
            lies to one side. What all classes have in common may be steep, and does not count.
    """
    above, below, first = map(behind, (*beside, then))
    different, moved = differs(now, then), differs(above, first) & differs(below, first)
    if moved.sum() > len(moved) / 2:
        different = moved
    if not different.any():
        return None
    return Flag(
        "stateful",
        f"{counted(different)} answers are others at the end of the evaluation than at its beginning",
        "the model counts its calls, or looks at the clock; make it a function",
    )


def randomised(probe: Probe) -> Flag | None:
    """Two calls with one input, AutoAttack's first check (Athalye et al. 2018, section 4.2); with a few, many calls."""
    ask, few = probe.subject.logits, probe.both[:_ALONE]
    different, answer = differs(ask(probe.both), ask(probe.both)), ask(few)
    for _ in range(_DRAWS):
        different[: len(few)] |= differs(ask(few), answer)
    if not different.any():
        return None
    return Flag(
        "randomised",
        f"calls with one input differ on {counted(different)} inputs",
        "the figure is the mean over 100 fresh draws, attacked in the mean; fix the randomness to have a function",
    )


def batch_dependent(probe: Probe) -> Flag | None:
    """Whether an example's answer depends on its neighbours (batch-norm in training mode and the like) or their number.

    It is asked in parts, alone, in another order, and in a batch as large as those of the attacks.
    """
    x, ask = probe.both, probe.subject.logits
    whole, order = ask(x), torch.arange(len(x)).flip(0)
    parts = torch.cat([ask(part) for part in torch.split(x, max(2, min(7, len(x) // 2)))])
    different = differs(parts, whole) | differs(ask(x[order])[order], whole)
    few = torch.linspace(0, len(x) - 1, min(_ALONE, len(x))).long()
    different[few] |= differs(torch.cat([ask(x[row : row + 1]) for row in few.tolist()]), whole[few])
    if probe.batch > len(x):
        different |= differs(ask(x[torch.arange(probe.batch) % len(x)])[: len(x)], whole)
    if not different.any():
        return None
    return Flag(
        "batch-dependent",
        f"{counted(different)} answers change with the other examples of the batch, or their number",
        "put all layers in evaluation mode and use no statistics of the batch",
    )


def watches_gradients(probe: Probe) -> Flag | None:
    """Whether the model answers differently when it is differentiated, or fails, or in inference mode."""
    x, y = probe.both, probe.labels
    try:
        seen = value_and_gradient(ce, probe.subject.differentiable, x, y)[0]  # as attacks ask: from where they do
    except (Exception, SystemExit) as error:  # any code may run in a model, and fail in any way
        if out_of_memory(error):
            raise
        return Flag(
            "not-differentiable",
            f"differentiating fails: {reason(error)}",
            "gradients were taken from stand-ins and from answers alone",
        )
    usual = probe.subject.logits(x)
    inferred = _inferred(probe)
    different = differs(seen, usual) | differs(usual if inferred is None else inferred, usual)
    if not different.any():
        return None
    return Flag(
        "watches-gradients",
        f"{counted(different)} answers change when gradients are asked for, or in inference mode",
        "it was attacked through a stand-in; make the answer independent of the gradient mode",
    )


def _inferred(probe: Probe) -> Tensor | None:
    """The answers in inference mode, of a copy of its own: what it keeps could not be differentiated any more.

    None from a model that cannot work there, as one that differentiates inside.
    """
    used, x = copy_of(probe.subject.pristine), probe.both
    with as_in_use(x.device, used), torch.inference_mode():
        return attempted(lambda: as_tensor(used(x.to(probe.subject.dtype, copy=True))).float().clone())


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


class _Leaving(Smooth):
    """Writes down what is handed out of torch of more than one number per example."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self.handed: list[str] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation."""
        if operation_name(function) in _WAYS_OUT and args[0].numel() > self._rows:
            smooth = self.smooth(args[0])
            if smooth.is_floating_point() and smooth.requires_grad:
                self.handed.append(f"{tuple(args[0].shape)}")
        return super().__torch_function__(function, types, args, kwargs)


def leaves_torch(probe: Probe) -> Flag | None:
    """Whether a part of what the model computes of an example is computed by NumPy or Python, which no gradient sees.

    Single numbers may be read: what they decide is looked behind (`remedies/switches.py`).
    """
    mode, x = _Leaving(len(probe.x)), probe.x.detach().requires_grad_()
    with torch.enable_grad(), bpda(mode):
        attempted(lambda: probe.subject.differentiable(x))
    if not mode.handed:
        return None
    return Flag(
        "leaves-torch",
        f"a tensor of shape {mode.handed[0]} that depends on the input is handed to NumPy or Python",
        "no gradient tells what is made of it; write that part in torch",
    )


@contextmanager
def _counting() -> Iterator[list[str]]:
    """The calls of autograd inside the block."""
    calls: list[str] = []

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(function.__name__)
            return function(*args, **kwargs)

        return call

    with (
        replaced(torch.autograd, "grad", counted(torch.autograd.grad)),
        replaced(torch.autograd, "backward", counted(torch.autograd.backward)),
    ):
        yield calls
