"""Whether a model is an affine function by construction: then its worst point is known, and no attack is needed."""

import operator

import torch
from torch import Tensor, fx, nn

from nofreelunch.models.classifier import Pixels
from nofreelunch.models.tracing import has_hooks, trace
from nofreelunch.types import Model

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, Pixels,
)  # fmt: skip
"""Affine in evaluation mode."""
_FUNCTIONS = {torch.flatten, operator.neg, torch.neg, "flatten", "reshape", "view", "neg", "contiguous", "float"}
_SUMS = {operator.add, torch.add, operator.sub, torch.sub, "add", "sub"}


def is_affine(model: Model) -> bool:
    """Whether every operation of the model is affine in its input; False where that cannot be seen.

    Layers count only as themselves, not as what inherits from them, and without hooks. What depends on anything but the
    input (a counter, the gradient mode) is for the caller to exclude.
    """
    if not isinstance(model, nn.Module) or has_hooks(model):
        return False
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
