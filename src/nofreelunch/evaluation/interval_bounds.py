"""A bound from below: examples that no adversary can break, proven by intervals.

Gowal et al. 2018, "On the effectiveness of interval bound propagation": the box around an example is pushed through the
network layer by layer; where the lower bound of the true logit minus each other one is positive, the example is robust.
A last linear layer is bounded together with the difference of logits, which is tighter.
"""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nofreelunch.models.classifier import Pixels
from nofreelunch.models.declared import Outputs
from nofreelunch.models.tracing import frozen_copy, trace
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Labels, Mask, Model

_SLACK = 1e-5
"""From this share of the largest logit on a margin counts as positive: bounds are float64, the model is float32."""
_ROUNDED = 1e-3
"""By more than this share of its largest logit a model that rounds to float32 is another one than its bounds are of."""
_RISING = (
    nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, Pixels, Outputs,
)  # fmt: skip
"""No output falls when an input rises, in evaluation mode: such a layer maps bounds to bounds."""
_RISING_CALLS = {torch.relu, F.relu, torch.flatten, F.max_pool2d, torch.max_pool2d, F.avg_pool2d, "flatten", "relu"}
_WEIGHTED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
_SUMS = {operator.add, torch.add, "add"}
_DIFFERENCES = {operator.sub, torch.sub, "sub"}
_SCALINGS = {operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div"}


@dataclass(frozen=True)
class Interval:
    """All tensors between two."""

    low: Tensor
    high: Tensor

    @property
    def centre(self) -> Tensor:
        """The middle."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width."""
        return (self.high - self.low) / 2


def certify(model: Model, x: Inputs, y: Labels, threat: Threat) -> Mask | None:
    """The examples that are proven robust; None if the model holds operations that cannot be bounded here.

    Args:
        model: fully connected or convolutional, with ReLUs; traced, so that what it does must not depend on its input.
        x: examples.
        y: labels.
        threat: an l_2 ball is bounded by the l_inf ball around it.
    """
    if not isinstance(model, nn.Module) or (copy := frozen_copy(model)) is None:
        return None
    with torch.no_grad():  # as the model is judged
        graph = trace(copy.double())
    if graph is None or not all(_known(node, graph) for node in graph.graph.nodes):
        return None
    low, high = (threat.clip(x.double() + sign * threat.eps) for sign in (-1, 1))
    with torch.no_grad():
        proven = _propagate(graph, Interval(low, high), y)
        for z in (x, low, high):
            exact, rounded = graph(z.double()), model(z.to(_float_type(model)))
            proven &= (exact - rounded).abs().amax(1) <= _ROUNDED * exact.abs().amax(1)
    return proven


def _float_type(model: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)


def _known(node: fx.Node, graph: fx.GraphModule) -> bool:
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        plain = getattr(layer, "padding_mode", "zeros") == "zeros" and getattr(layer, "running_mean", 0) is not None
        return type(layer) in _RISING + _WEIGHTED and plain
    if node.op in ("call_function", "call_method"):
        if node.target in _SUMS | _DIFFERENCES | _SCALINGS:
            numbers = all(isinstance(arg, (fx.Node, int, float)) for arg in node.args)
            by_constant = not isinstance(node.args[-1], fx.Node) or node.args[-1].op == "get_attr"
            plain = len(node.args) == 2 and not node.kwargs  # or there is a factor, alpha
            return numbers and plain and (by_constant or node.target not in _SCALINGS)
        return node.target in _RISING_CALLS and sum(isinstance(arg, fx.Node) for arg in node.args) == 1
    return node.op in ("placeholder", "output", "get_attr")


def _propagate(graph: fx.GraphModule, box: Interval, y: Labels) -> Mask:
    """Whether the true logit's lead over each other one is positive all over the box."""
    *operations, output = graph.graph.nodes
    known: dict[fx.Node, Interval] = {}
    for node in operations:
        if node.op == "get_attr":
            known[node] = _constant(operator.attrgetter(str(node.target))(graph))
        elif node.op == "placeholder":
            known[node] = box
        else:
            known[node] = _step(node, graph, known)
    last = output.args[0]
    layer = graph.get_submodule(str(last.target)) if last.op == "call_module" else None
    if type(layer) is nn.Linear:
        return _lead_of_linear(layer, known[last.args[0]], y)
    return _lead(known[last], y)


def _constant(value: Tensor | float) -> Interval:
    number = torch.as_tensor(value, dtype=torch.float64)
    return Interval(number, number)


def _step(node: fx.Node, graph: fx.GraphModule, known: dict[fx.Node, Interval]) -> Interval:
    """The bounds of one operation."""
    if node.target in _SUMS | _DIFFERENCES | _SCALINGS:
        first, second = (known[arg] if isinstance(arg, fx.Node) else _constant(arg) for arg in node.args)  # type: ignore[arg-type]
        return _combined(node.target, first, second)
    parents = [known[arg] for arg in node.args if isinstance(arg, fx.Node)]
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        if type(layer) in _WEIGHTED:
            return _weighted(layer, parents[0])
        return Interval(layer(parents[0].low), layer(parents[0].high))
    call = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
    low, high = (call(end, *node.args[1:], **node.kwargs) for end in (parents[0].low, parents[0].high))
    return Interval(low, high)


def _combined(target: object, first: Interval, second: Interval) -> Interval:
    """A sum, a difference, or a multiple by a constant."""
    if target in _SUMS:
        return Interval(first.low + second.low, first.high + second.high)
    if target in _DIFFERENCES:
        return Interval(first.low - second.high, first.high - second.low)
    factor = second.low if target in {operator.mul, torch.mul, "mul"} else 1 / second.low
    ends = first.low * factor, first.high * factor
    return Interval(torch.minimum(*ends), torch.maximum(*ends))


def _weighted(layer: nn.Module, given: Interval) -> Interval:
    """The centre goes through the layer, the radius through the layer of absolute weights."""
    middle = layer(given.centre)
    if isinstance(layer, nn.Linear):
        spread = F.linear(given.radius, layer.weight.abs())
    elif isinstance(layer, nn.Conv2d):
        weight, moves = layer.weight.abs(), (layer.stride, layer.padding)
        spread = F.conv2d(given.radius, weight, None, *moves, layer.dilation, layer.groups)  # type: ignore[arg-type]
    else:
        spread = (layer(given.high) - middle).abs()  # one factor per channel, of either sign
    return Interval(middle - spread, middle + spread)


def _lead(logits: Interval, y: Labels) -> Mask:
    """From bounds of the logits."""
    true = logits.low.gather(1, y[:, None]).squeeze(1)
    others = logits.high.scatter(1, y[:, None], -torch.inf).amax(1)
    return true - others > _SLACK * _size(logits)


def _lead_of_linear(layer: nn.Linear, given: Interval, y: Labels) -> Mask:
    """From bounds of the last layer's input: the difference of two logits is a linear function of it."""
    weight, centre = layer.weight[y][:, None] - layer.weight, layer(given.centre)
    lead = centre.gather(1, y[:, None]) - centre
    least = lead - torch.einsum("nkd,nd->nk", weight.abs(), given.radius)
    slack = _SLACK * _size(_weighted(layer, given))
    proven: Mask = (least.scatter(1, y[:, None], torch.inf) > slack[:, None]).all(1)
    return proven


def _size(logits: Interval) -> Tensor:
    """The largest absolute value that a logit may take."""
    return torch.maximum(logits.low.abs(), logits.high.abs()).amax(1)
