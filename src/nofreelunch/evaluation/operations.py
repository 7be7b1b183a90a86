"""What a model's operations tell: the exact answer where they are affine, certificates where they can be bounded."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from nofreelunch.attacks import ExactLinear
from nofreelunch.errors import InputError
from nofreelunch.evaluation.interval_bounds import certify
from nofreelunch.evaluation.subject import as_in_use, attempted
from nofreelunch.evaluation.tally import Tally
from nofreelunch.evaluation.trial import Trial
from nofreelunch.evaluation.trust.probe import differs
from nofreelunch.models.classifier import Pixels
from nofreelunch.models.declared import Outputs
from nofreelunch.models.tracing import trace
from nofreelunch.types import Inputs, Labels, Logits, Mask, Model

_PROBE = 24
"""Examples on which the traced operations are held against the model's."""
_TRIED = 32
"""So many examples are tried to be proven before all are."""
_UNPROVABLE = {
    "watches-gradients", "not-differentiable", "discontinuous", "batch-dependent", "non-finite-output",
    "half-precision",
}  # fmt: skip
"""Flags after which a traced graph may not be the whole model, or not round as float32 does: nothing is certified."""

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, Pixels, Outputs,
)  # fmt: skip
"""Affine in evaluation mode."""
_FUNCTIONS = {torch.flatten, operator.neg, torch.neg, "flatten", "reshape", "view", "neg", "contiguous", "float"}
_SUMS = {operator.add, torch.add, operator.sub, torch.sub, "add", "sub"}


def exactly(trial: Trial) -> bool:
    """Whether the model is affine by construction; then its worst points are found in closed form."""

    def solve() -> bool:
        attack = ExactLinear(trial.threat)
        try:
            trial.breaks(
                attack, trial.some(_PROBE), "exact-linear"
            )  # first of a few: a step that fails must leave none
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
    index = trial.some(_TRIED)
    proven = trial.attempted("certificate", partial(_proven, trial, index))
    if proven is not None and proven.any() and len(everything) > _TRIED:
        index, proven = everything, _proven(trial, everything)
    if proven is None or (proven.any() and not _shows_its_operations(trial)):
        return None
    if (trial.board.right[index[proven]] < 0.5).any():  # then these are not the operations of the model
        return None
    return Tally(int(proven.sum()), len(everything))


def _shows_its_operations(trial: Trial) -> bool:
    """Whether the operations that can be traced are those that are run, at random points of the set and its rim."""
    model = trial.subject.working
    graph = trace(model)
    if graph is None:
        return False
    index = trial.some(_PROBE)
    x, streams = trial.load(index)[0], trial.streams(index, "operations")
    away = trial.threat.eps * trial.threat.steepest(streams.normal(*x.shape[1:], dtype=x.dtype))
    z = torch.cat([x, trial.threat.random_start(x, streams), trial.threat.project(x + away, x)])
    z = z.to(trial.subject.dtype)
    with as_in_use(x.device, model), as_in_use(x.device, graph), torch.no_grad():
        of_model, of_graph = (attempted(partial(_seen, network, z)) for network in (model, graph))
    if of_model is None or of_graph is None:  # a graph has lost what is done around operations, as switching gradients
        return False
    return of_model[1] == of_graph[1] and not differs(of_graph[0], of_model[0]).any()


def _seen(model: Model, z: Inputs) -> tuple[Logits, list[str]]:
    """The answer, and the names of the operations behind it."""
    with _Called() as called:
        answer = model(z)
    return answer, called.names


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


def _proven(trial: Trial, index: Labels) -> Mask | None:
    """Which of these examples are proven robust; None if the model is not one that can be."""
    proven = []
    for part in torch.split(index, trial.batch):
        x, y = trial.load(part)
        with as_in_use(x.device, trial.subject.working):
            mask = certify(trial.subject.working, x, y, trial.threat)
        if mask is None:
            return None
        proven.append(mask.cpu())
    return torch.cat(proven)


def is_affine(model: Model) -> bool:
    """Whether every operation of the model is affine in its input; False where that cannot be seen.

    Layers count only as themselves, not as what inherits from them, and without hooks. What depends on anything but the
    input (a counter, the gradient mode) is for the caller to exclude.
    """
    graph = trace(model)
    return graph is not None and all(_affine(node, graph) for node in graph.graph.nodes)


def _affine(node: fx.Node, graph: fx.GraphModule) -> bool:
    if node.op in ("placeholder", "output", "get_attr"):
        return True
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        tracks = getattr(layer, "track_running_stats", True) and getattr(layer, "running_mean", 0) is not None
        return type(layer) in _LAYERS and tracks
    if node.target in _FUNCTIONS:  # a view as another type is no affine map
        return not any(isinstance(arg, torch.dtype) for arg in (*node.args, *node.kwargs.values()))
    constant = all(not isinstance(arg, fx.Node) or arg.op == "get_attr" for arg in node.args[1:])
    if node.target in {operator.mul, operator.truediv, torch.mul, torch.div, "mul", "div"}:
        return constant and not node.kwargs  # a rounding mode is one
    return (
        node.target in _SUMS
        and not node.kwargs
        and all(isinstance(arg, (fx.Node, int, float, Tensor)) for arg in node.args)
    )
