"""Classifiers inside the model: what it computes before it hides something, or after it has treated its input.

A defence is often a layer before or after an ordinary network. Taking the network's answer before the last layer, or
the derivative as if the first one were the identity, is the simplest adaptive attack (Athalye et al. 2018, section
4.1.2).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nofreelunch.evaluation.remedies.bpda import bpda
from nofreelunch.evaluation.remedies.straight import straight
from nofreelunch.evaluation.subject import Subject, as_in_use
from nofreelunch.models.copying import all_modules, modules_of
from nofreelunch.types import Model

_MOST = 3
"""So many surrogates of each kind, at most: every one is tried on the sample."""


@dataclass(frozen=True)
class Inner:
    """The logits that one module inside the model answers.

    Args:
        subject: the model.
        place: of the module among all modules.
        shape: of one input of the module.
        from_x: take the derivative as if the model handed its input to this module as it came.
    """

    subject: Subject
    place: int
    shape: tuple[int, ...]
    from_x: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, k); those of the module itself on x, where the model does not ask it about every example."""
        callee = self.subject.callee()
        module, answers = all_modules(callee)[self.place], list[Tensor]()

        def enter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            given = args[0] if self.from_x and args else None
            if not isinstance(given, Tensor) or given.shape[:1] != x.shape[:1] or given.numel() != x.numel():
                return args  # it is asked about a part of the examples, or by name
            return straight(given, x.reshape(given.shape).to(given.dtype)), *args[1:]

        def leave(_: nn.Module, args: tuple[Any, ...], logits: Any) -> None:
            answers.append(logits)

        with as_in_use(x.device, callee), bpda(), ExitStack() as stack:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
            callee(x.to(self.subject.dtype).clone())
        if answers and answers[-1].shape[:1] == x.shape[:1]:
            return answers[-1]
        with as_in_use(x.device, callee):
            logits: Tensor = module(x.to(self.subject.dtype).reshape(-1, *self.shape))
        return logits


@dataclass(frozen=True)
class _Seen:
    """One module's input and answer."""

    place: int
    given: Tensor
    logits: Tensor


def inner_surrogates(subject: Subject, x: Tensor) -> dict[str, Model]:
    """The modules that answer with as many logits as the model, each with its input as it comes and as if it were x."""
    callee = subject.callee()
    names = module_names(callee)
    said, seen = _watch(subject, callee, x)
    surrogates: dict[str, Model] = {}
    answers, inputs = list[Tensor](), list[Tensor]()
    for one in seen:
        if one.logits.shape != said.shape:
            continue
        name, shape = names[one.place] or "the network", tuple(one.given.shape[1:])
        if not _among(one.logits, [said, *answers]) and len(answers) < _MOST:
            answers.append(one.logits)
            surrogates[f"inside {name}"] = Inner(subject, one.place, shape, from_x=False)
        if one.given[0].numel() == x[0].numel() and not _among(one.given, inputs) and len(inputs) < _MOST:
            inputs.append(one.given)
            surrogates[f"{name} from its input"] = Inner(subject, one.place, shape, from_x=True)
    return surrogates


def module_names(callee: Model) -> list[str]:
    """The names of all modules that a model is made of, in their order."""
    return [name for root in modules_of(callee) for name, _ in root.named_modules(remove_duplicate=False)]


@contextmanager
def watched(callee: Model, hook: Callable[[int, Any, Any], Any]) -> Iterator[None]:
    """Inside the block `hook(place, args, answer)` is called after each module of the model; not of a TorchScript's.

    What it returns, unless that is None, takes the place of the answer.
    """
    with ExitStack() as stack:
        for place, module in enumerate(all_modules(callee)):
            if module is not callee and not isinstance(module, torch.jit.ScriptModule):
                after = partial(lambda place, _, args, answer: hook(place, args, answer), place)
                stack.callback(module.register_forward_hook(after).remove)
        yield


def _among(tensor: Tensor, others: list[Tensor]) -> bool:
    return any(torch.equal(tensor, other) for other in others)


def _watch(subject: Subject, callee: Model, x: Tensor) -> tuple[Tensor, list[_Seen]]:
    """The model's answer, and those of the modules in it that say something about every example, outermost first."""
    seen: dict[int, _Seen] = {}

    def note(place: int, args: Any, logits: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(logits, Tensor) and len(args[0]) == len(x):
            seen[place] = _Seen(place, args[0].detach().clone(), logits.detach().clone())

    with watched(callee, note), as_in_use(x.device, callee), torch.no_grad():
        said = callee(x.to(subject.dtype).clone())
    return said, [seen[place] for place in sorted(seen)]
