"""The same model, cheaper to differentiate with respect to its input: the one place where speed is bought."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, fx, nn

from nofreelunch.errors import check_known
from nofreelunch.models.cuda_graphs import CudaGraphs
from nofreelunch.models.derivative import Derivative, derivative
from nofreelunch.models.folding import add_in_place, fold_batch_norms, pool_before_relu, save_memory
from nofreelunch.models.precision import multiplies_bfloat16
from nofreelunch.models.state import evaluating
from nofreelunch.models.thin import use_thin_convolutions
from nofreelunch.models.tracing import frozen_copy, has_hooks, trace
from nofreelunch.types import Inputs, Model

Precision: TypeAlias = Literal["float32", "bfloat16"]

_MULTIPLIERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def fast(model: Model, precision: str = "float32") -> Model:
    """A callable with the logits of `model` in evaluation mode that costs less to differentiate by its input.

    It holds a frozen copy of the weights: batch-norms are folded into convolutions, images lie channels-last, pooling
    comes before the ReLU. The copy is compared with the model on the first batch it is given. A model that cannot be
    improved (a function, one with hooks, one whose operations depend on its input) is returned as it is.

    Args:
        model: stays as it is; `refresh` fills in its new weights after it has been trained further.
        precision: "float32" changes nothing but rounding. "bfloat16" multiplies in bfloat16 where the model is
            in float32 and the machine has instructions for it; logits and input gradient are float32.

    Raises:
        InputError: if there is no such precision.
    """
    check_known("precision", precision, get_args(Precision))
    inner = _unwrapped(model)
    if not isinstance(inner, nn.Module) or has_hooks(inner):
        return model
    copy = frozen_copy(inner)
    graph = None if copy is None else trace(copy)
    return model if graph is None or copy is None or _has_constants(graph) else Fast(inner, copy, graph, precision)


class Fast:
    """What `fast` returns for a model that it could trace.

    Args:
        copy: a frozen copy of it in evaluation mode, the reference of the first batch.
        graph: the copy's operations; changed here.
    """

    def __init__(self, model: nn.Module, copy: nn.Module, graph: fx.GraphModule, precision: str) -> None:
        on_cpu = all(weight.device.type == "cpu" for weight in graph.parameters())
        pool_before_relu(graph)
        self._folds = fold_batch_norms(graph)
        save_memory(graph)
        add_in_place(graph)
        if on_cpu:
            use_thin_convolutions(graph)
        graph.graph.lint()
        graph.delete_all_unused_submodules()
        graph.recompile()
        for layer in graph.modules():
            if type(layer) is nn.Conv2d:
                layer.weight.data = layer.weight.data.clone(memory_format=torch.channels_last)
        self.model, self._graph, self.precision = model, graph, precision
        self._copy: nn.Module | None = copy
        self._run: Model | None = None
        self._autocast = False
        self.refresh()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, k) of inputs (n, ...), in the model's float type, float32 at least."""
        if self._copy is not None and len(x) > 0:
            self._start(self._copy, x)
            self._copy = None
        return self.itself(x) if self._run is None else self._run(x)

    def itself(self, x: Inputs) -> Tensor:
        """Logits of the live model."""
        with evaluating(self.model):
            logits: Tensor = self.model(x)
        return logits

    def refresh(self) -> None:
        """Take over the model's present weights."""
        present = _tensors(self.model)
        with torch.no_grad():
            for mine in (self._graph, self._copy):
                held = _tensors(mine) if mine is not None else {}
                shared = [name for name in held if name in present]
                if shared:  # all at once: on a GPU each copy of its own has to be launched
                    torch._foreach_copy_([held[name] for name in shared], [present[name] for name in shared])
            for fold in self._folds:
                fold.fill(self._graph, self.model)

    def _start(self, copy: nn.Module, x: Inputs) -> None:
        """Settle how to run: by the graph if it agrees with the copy on these inputs, in bfloat16 if that is near."""
        truth = derivative(copy, x)  # a model that fails on x fails here, as it would without us
        if truth is None or not self._agrees(truth, x, logits=1e-3, grad=0.05):
            return
        if self.precision == "bfloat16" and multiplies_bfloat16(x.device) and truth.logits.dtype == torch.float32:
            self._lower(torch.bfloat16)
            if not self._agrees(truth, x, logits=0.1, grad=0.5):
                self._lower(torch.float32)
                self.refresh()
        self._run = CudaGraphs(self._forward) if x.device.type == "cuda" else self._forward

    def _agrees(self, truth: Derivative, x: Inputs, logits: float, grad: float) -> bool:
        try:
            mine = derivative(self._forward, x)
        except Exception:  # what was traced cannot always be run, nor always in bfloat16: then the model itself runs
            return False
        return mine is not None and mine.is_near(truth, logits, grad)

    def _lower(self, dtype: torch.dtype) -> None:
        """Keep the weights of the layers that multiply in `dtype`; autocast converts what flows into them."""
        self._autocast = dtype == torch.bfloat16
        for layer in self._graph.modules():
            if type(layer) in _MULTIPLIERS:
                layer.to(dtype)

    def _forward(self, x: Inputs) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast, cache_enabled=False):
            logits: Tensor = self._graph(x)
        return logits.float() if self._autocast else logits


def _has_constants(graph: fx.GraphModule) -> bool:
    """Whether something that was computed from buffers while tracing would not follow them."""
    return any(node.op == "get_attr" and "_tensor_constant" in str(node.target) for node in graph.graph.nodes)


def refresh(model: Model) -> None:
    """Let what `fast` returned follow its model's present weights; what it returned as it was follows by itself."""
    if isinstance(model, Fast):
        model.refresh()


def judge(model: Model) -> Model | None:
    """Who decides on success where the model only comes near another one, but for rounding: that one; else None."""
    return model.itself if isinstance(model, Fast) else None


def live(model: Model) -> Model:
    """The model of which `fast` made this one, or this one."""
    return model.model if isinstance(model, Fast) else model


def _unwrapped(model: object) -> object:
    """The module inside of a wrapper that adds nothing to the differentiation by the input."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.module
    if isinstance(model, nn.DataParallel) and len(model.device_ids) < 2:
        return model.module
    return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, under each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
