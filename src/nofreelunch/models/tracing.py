"""A network as a graph of operations, where one can be had."""

import warnings

from torch import fx, nn

from nofreelunch.models.classifier import Pixels
from nofreelunch.models.copying import copy_of
from nofreelunch.models.declared import Outputs
from nofreelunch.models.resnet import StandardiseEach

_LEAVES = (Pixels, Outputs, StandardiseEach)  # they look at the shape of their input, which a symbol does not have


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def has_hooks(model: nn.Module) -> bool:
    """Whether calling the model, or differentiating it, runs code that is not in the `forward` of a layer's class."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        or type(module).__call__ is not nn.Module.__call__
        for module in model.modules()
    )


def frozen_copy(model: nn.Module) -> nn.Module | None:
    """A copy in evaluation mode whose parameters ask for no gradient; None where the model cannot be copied."""
    try:
        made: nn.Module = copy_of(model)
        if made is model:
            return None
        for module in made.modules():
            module.training = False  # as models are judged: their own train() is not asked
        return made.requires_grad_(False)
    except Exception:  # any code may run in a user's module, and fail in any way
        return None


def operation_name(function: object) -> str:
    """The name of an operation, as a mode is told of it; exported programs name it round.default where it is round."""
    name: str = getattr(function, "__name__", "")
    return name.partition(".")[0]


def trace(model: object) -> fx.GraphModule | None:
    """The operations that `model` performs on every input; None where they depend on the input or cannot be seen.

    They cannot be where it is no module, or has hooks. The graph's layers are those of `model`, under the same names.
    """
    if not isinstance(model, nn.Module) or has_hooks(model):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fx.GraphModule(model, _Tracer().trace(model))
    except Exception:  # a user's forward is run with symbols in the place of tensors, and may fail in any way
        return None
