"""What a model's operations tell: the exact answer where they are affine, certificates where they can be bounded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from nofreelunch.attacks import ExactLinear
from nofreelunch.errors import InputError
from nofreelunch.evaluation.certified import certify
from nofreelunch.evaluation.exact import is_affine
from nofreelunch.evaluation.subject import as_in_use
from nofreelunch.evaluation.tally import Tally
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust.probe import differs
from nofreelunch.models.tracing import trace
from nofreelunch.types import Labels

_PROBE = 24
"""Examples on which the traced operations are held against the model's."""
_TRIED = 32
"""So many examples are tried to be proven before all are."""
_UNPROVABLE = {"watches-gradients", "not-differentiable", "discontinuous", "batch-dependent", "non-finite-output"}
"""What a model is flagged for that its traced operations do not tell all of."""


def exactly(trial: Trial) -> bool:
    """Whether the model is affine by construction; then its worst points are found in closed form."""

    def solve() -> bool:
        attack, few = ExactLinear(trial.threat), trial.sample(torch.arange(len(trial.source)), _PROBE)
        try:
            trial.breaks(attack, few, "exact-linear")  # a step that fails here is none
            trial.attack("exact-linear", attack)
        except InputError:  # it is not affine in numbers: it overflows, or the box is unknown to the closed form
            return False
        return True

    affine = trial.subject.dtype in (torch.float32, torch.float64) and is_affine(trial.subject.working)
    return affine and _shows_its_operations(trial) and trial.journal.once("exact-linear", solve)


def certified(trial: Trial, flags: set[str]) -> Tally | None:
    """Examples proven robust, where the model is one that can be; where none of a few is, no more are tried."""
    if flags & _UNPROVABLE or trial.subject.stateful or trial.randomised:
        return None
    everything = torch.arange(len(trial.source))
    proven = _proven(trial, trial.sample(everything, _TRIED))
    if proven and len(everything) > _TRIED:
        proven = _proven(trial, everything)
    if proven is None or (proven > 0 and not _shows_its_operations(trial)):
        return None
    if proven > trial.board.robust().correct:  # then these are not the operations of the model
        return None
    return Tally(proven, len(everything))


def _shows_its_operations(trial: Trial) -> bool:
    """Whether the operations that can be traced are those that are run, at random points of the set and its rim."""
    model = trial.subject.working
    graph: fx.GraphModule | None = trace(model) if isinstance(model, nn.Module) else None
    if graph is None:
        return False
    index = trial.sample(torch.arange(len(trial.source)), _PROBE)
    x, streams = trial.load(index)[0], trial.streams(index, "operations")
    away = trial.threat.eps * trial.threat.steepest(streams.normal(*x.shape[1:], dtype=x.dtype))
    z = torch.cat([x, trial.threat.random_start(x, streams), trial.threat.project(x + away, x)])
    z = z.to(trial.subject.dtype)
    with as_in_use(x.device, model), as_in_use(x.device, graph), torch.no_grad():
        try:
            with _Called() as by_model:
                answer = model(z)
            with _Called() as by_graph:
                traced = graph(z)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a graph has lost what the model does around its operations, such as switching gradients
            return False
    return by_model.names == by_graph.names and not differs(traced, answer).any()


class _Called(TorchFunctionMode):
    """The names of the operations inside the block: a model may do more on numbers than it shows to a tracer."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation as it is."""
        name = getattr(function, "__name__", "")
        if name != "__get__":  # shapes
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def _proven(trial: Trial, index: Labels) -> int | None:
    """How many of these examples are proven robust; None if the model is not one that can be."""
    proven = 0
    for part in torch.split(index, trial.batch):
        x, y = trial.load(part)
        with as_in_use(x.device, trial.subject.working):
            mask = certify(trial.subject.working, x, y, trial.threat)
        if mask is None:
            return None
        proven += int(mask.sum())
    return proven
