"""Rewrites of a traced network, in evaluation mode, that keep its function and make its input gradient cheaper.

Each changes the graph in place. One that makes a new layer out of old ones says so by a `Fold`, which fills in the new
layer's weights, and does so again when the old layers have been trained further.
"""

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nofreelunch.models.activation import Norm, activate, add_into, normalise_and_activate

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")


@dataclass(frozen=True)
class Fold:
    """A layer of the graph that does the work of two layers of the model.

    Args:
        place: name of the new layer in the graph.
        layer: name of the convolution or linear layer in the model.
        norm: name of the batch-norm that follows it.
    """

    place: str
    layer: str
    norm: str

    def fill(self, graph: nn.Module, model: nn.Module) -> None:
        """Compute the new layer's weights in `graph` from the two layers' in `model`.

        gamma (W x + b - mean) / sqrt(var + eps) + beta, Ioffe and Szegedy 2015, section 3.1.
        """
        place: Any = graph.get_submodule(self.place)
        layer: Any = model.get_submodule(self.layer)
        norm = _norm(model.get_submodule(self.norm))
        scale = norm.scale
        bias = (-norm.mean if layer.bias is None else layer.bias - norm.mean) * scale
        place.weight.copy_(layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        place.bias.copy_(bias if norm.bias is None else bias + norm.bias)


def fold_batch_norms(graph: fx.GraphModule) -> tuple[Fold, ...]:
    """Make one layer of each convolution or linear layer and the batch-norm that alone reads it."""
    folds: list[Fold] = []
    for node in list(graph.graph.nodes):
        norm, before = _layer(graph, node, _BATCH_NORMS), _only_input(node)
        layer = _layer(graph, before, (*_CONVOLUTIONS, nn.Linear))
        if norm is None or layer is None or before is None or len(before.users) > 1:
            continue
        if norm.training or norm.running_var is None or before.target in {fold.place for fold in folds}:
            continue  # it normalises by the batch, or is a second one
        if len(norm.running_var) != len(layer.weight):
            continue  # it normalises another dimension
        fold = Fold(f"_folded_{len(folds)}", str(before.target), str(node.target))
        place = copy.deepcopy(layer)
        place.bias = nn.Parameter(layer.weight.new_empty(len(layer.weight)), requires_grad=False)
        graph.add_submodule(fold.place, place)
        before.target = fold.place
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
        folds.append(fold)
    return tuple(folds)


def pool_before_relu(graph: fx.GraphModule) -> None:
    """max_pool(relu(x)) -> relu(max_pool(x)): the same values and gradients, and a ReLU on a quarter of them."""
    for node in list(graph.graph.nodes):
        relu = _only_input(node)
        if relu is None or not _is_max_pool(graph, node) or _slope(graph, relu) != 0 or len(relu.users) > 1:
            continue
        before = _only_input(relu)
        if before is None or len(before.users) > 1:
            continue
        node.replace_input_with(relu, before)
        node.replace_all_uses_with(relu)
        relu.replace_input_with(before, node)
        node.append(relu)


def save_memory(graph: fx.GraphModule) -> None:
    """Let (leaky) ReLUs overwrite what a layer has just made and nobody else reads, and take a batch-norm with them."""
    for node in list(graph.graph.nodes):
        slope, before = _slope(graph, node), _only_input(node)
        if slope is None or before is None or len(before.users) > 1:
            continue
        owned = len(node.users) == 1 and _makes_new(graph, next(iter(node.users)))
        norm = _layer(graph, before, _BATCH_NORMS)
        with graph.graph.inserting_after(node):
            if norm is not None and not norm.training and norm.running_var is not None:
                new = graph.graph.call_function(normalise_and_activate, (before.args[0], (), slope, owned))
                with graph.graph.inserting_before(new):
                    new.update_arg(1, tuple(_symbols(graph, _norm(norm), str(before.target))))
            elif _makes_new(graph, before):
                new = graph.graph.call_function(activate, (before, slope, owned))
            else:
                continue
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        if not before.users:
            graph.graph.erase_node(before)


def add_in_place(graph: fx.GraphModule) -> None:
    """Let the sums of residual networks overwrite what a layer has just made and nobody else reads."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in (operator.add, torch.add) or node.kwargs:
            continue
        terms = [term for term in node.args if isinstance(term, fx.Node)]
        new = [term for term in terms if len(term.users) == 1 and _makes_new(graph, term)]
        if new and len(terms) == 2:
            node.target, node.args = add_into, (new[0], terms[1 - terms.index(new[0])])


def _norm(layer: Any) -> Norm:
    return Norm(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)


def _symbols(graph: fx.GraphModule, norm: Norm, name: str) -> Iterator[Any]:
    """The fields of the batch-norm called `name`, its tensors as nodes of the graph."""
    for field, value in zip(("running_mean", "running_var", "weight", "bias", ""), norm, strict=True):
        yield graph.graph.get_attr(f"{name}.{field}") if isinstance(value, Tensor) else value


def _makes_new(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether result and input gradient of `node` are new memory, and neither derivative reads the result."""
    return _layer(graph, node, (*_CONVOLUTIONS, nn.Linear)) is not None or _is_max_pool(graph, node)


def _only_input(node: fx.Node) -> fx.Node | None:
    """The node that is the only input of `node` and its first argument, if it is so."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) and node.all_input_nodes == [first] else None


def _layer(graph: fx.GraphModule, node: fx.Node | None, kinds: tuple[type[nn.Module], ...]) -> Any:
    """The module that `node` calls, if it is exactly of one of these kinds: a subclass may do anything."""
    if node is None or node.op != "call_module":
        return None
    module = graph.get_submodule(str(node.target))
    return module if type(module) in kinds else None


def _slope(graph: fx.GraphModule, node: fx.Node) -> float | None:
    """The slope, at least 0, that a (leaky) ReLU has below zero; None if `node` is none."""
    slope: Any = None
    if _layer(graph, node, (nn.ReLU,)) is not None or (
        node.op in ("call_function", "call_method") and node.target in _RELUS
    ):
        slope = 0.0
    elif (module := _layer(graph, node, (nn.LeakyReLU,))) is not None:
        slope = module.negative_slope
    elif node.op == "call_function" and node.target is F.leaky_relu:
        slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    return slope if isinstance(slope, float) and slope >= 0 else None


def _is_max_pool(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is a max-pooling that gives values only."""
    if (module := _layer(graph, node, (nn.MaxPool2d,))) is not None:
        return not module.return_indices
    plain = len(node.args) < 7 and not node.kwargs.get("return_indices")
    return node.op == "call_function" and node.target in (F.max_pool2d, torch.max_pool2d) and plain
