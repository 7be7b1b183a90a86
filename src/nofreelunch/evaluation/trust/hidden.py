"""Parts of a model that have a say nowhere: a network behind a lock that no attack opens, and no gradient tells of.

A model may hand inputs of one pattern to a weaker network: a code of the input is compared with a key, a gate opens at
a trigger. That network is outvoted, or never asked, on all images and wherever attacks go. Where no slope tells of the
key no attack finds it; but the lock is seen, and how weak the model would be without it. Where a slope does tell, as
that of a gate which has chosen some expert nowhere, what cannot be steered to is out of reach.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nofreelunch.evaluation.remedies.bpda import Smooth, bpda
from nofreelunch.evaluation.remedies.decisions import Steered, after_a_step, answered, closed_sides
from nofreelunch.evaluation.remedies.inner import Inner, module_names, watched
from nofreelunch.evaluation.result import Flag
from nofreelunch.evaluation.subject import Subject, as_in_use, attempted
from nofreelunch.rng import Streams
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Model

_WEAKER = 0.25
"""A part is worth a doubt if it loses more than this share of the examples beyond those that the model loses."""
_MUTE = 1e-6
"""A slope of the model's logits by a part's that is not larger anywhere is lost in float32."""
_Part: TypeAlias = tuple[str, Model, Callable[[], bool]]
"""A name, the logits of the part, and whether it is got to answer, or the search for that can be trusted."""


def hidden_flag(threat: Threat, subject: Subject, x: Inputs, y: Labels, seen: Tensor, steps: int) -> Flag | None:
    """Whether a part that has a say at none of the points seen is weaker than the model.

    Args:
        threat: the set.
        subject: the model.
        x: examples.
        y: their labels.
        seen: images, and points that attacks have come to.
        steps: of an attempt to get to where it has a say.
    """
    own = _lost(threat, subject.differentiable, x, y)
    closed = [
        Steered(threat, steps, subject=subject, place=place, side=side) for place, side in closed_sides(subject, seen)
    ]
    for name, part, settled in chain(_locked(closed, x, y), _mute(subject, seen, closed, x)):
        lost = attempted(partial(_lost, threat, part, x, y))  # None: it gives no answer
        if lost is not None and lost > own + _WEAKER and not attempted(settled):
            return Flag(
                "hidden-part",
                f"{name} has a say at none of {len(seen)} points, images and where attacks led; if it answered alone, "
                f"a single step of the radius would break {lost:.0%} of the examples, and of the model {own:.0%}",
                "find out for which inputs it answers, and evaluate it alone",
            )
    return None


def _lost(threat: Threat, part: Model, x: Inputs, y: Labels) -> float:
    """The share of examples that a part is wrong about after one step."""
    return float((after_a_step(threat, part, x, y) > 0).float().mean())


def _locked(closed: list[Steered], x: Inputs, y: Labels) -> Iterator[_Part]:
    """The model as if it had decided otherwise, where it decides alike everywhere."""
    streams = Streams.numbered(0, len(x), x.device)

    def settled(side: Steered) -> bool:
        return side.tells(x) or side.arrives(x, y, streams)

    for side in closed:
        name = f"what follows its decision {side.place + 1} if that is {side.side}"
        yield name, partial(answered, side.subject, (side.place, side.side)), partial(settled, side)


def _mute(subject: Subject, seen: Tensor, closed: list[Steered], x: Inputs) -> Iterator[_Part]:
    """The modules that answer like the model and are asked about every point, but change nothing in what it says.

    Those that a decision silences of which a slope tells are left out.
    """
    mute = _unheard(subject, seen, Smooth())
    for side in closed:
        if mute and side.tells(x):
            mute = {place: mute[place] for place in mute.keys() & _unheard(subject, seen, side.making(seen))}
    names = module_names(subject.callee())
    for place, shape in sorted(mute.items()):
        yield f'module "{names[place]}"', Inner(subject, place, shape, from_x=False), lambda: False


def _unheard(subject: Subject, seen: Inputs, mode: Smooth) -> dict[int, tuple[int, ...]]:
    """Of the modules that answer like the model those by whose answers its own has no slope, and what they are given.

    Args:
        subject: the model.
        seen: points.
        mode: in which the model runs.
    """
    callee, answers = subject.callee(), dict[int, tuple[Tensor, tuple[int, ...]]]()

    def note(place: int, args: Any, made: Any) -> Tensor | None:
        with torch._C.DisableTorchFunction():
            if not (args and isinstance(args[0], Tensor) and isinstance(made, Tensor)):
                return None
            if made.shape != (len(seen), subject.classes) or not made.is_floating_point():
                return None
            told = made if made.requires_grad else made.detach().requires_grad_()
            answers[place] = told, tuple(args[0].shape[1:])
            return told

    with watched(callee, note), torch.enable_grad(), as_in_use(seen.device, callee), bpda(mode):
        logits = callee(seen.detach().to(subject.dtype).requires_grad_().clone())  # it may work in place
    if not answers or not logits.requires_grad:
        return {}
    weights = Streams.numbered(0, 1, logits.device).normal(logits.shape[1], dtype=logits.dtype)
    tensors = [tensor for tensor, _ in answers.values()]
    slopes = torch.autograd.grad((logits * weights).sum(), tensors, allow_unused=True)
    return {
        place: answers[place][1]
        for place, slope in zip(answers, slopes, strict=True)
        if slope is not None and slope.abs().amax() < _MUTE
    }
