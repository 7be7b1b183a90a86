"""Forward and backward pass as one launch each: small networks keep a GPU waiting for their kernels to be launched."""

import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nofreelunch.models.derivative import Derivative
from nofreelunch.types import Inputs

_CAPTURE_AT = 3
"""A shape is recorded when it comes for the third time: the last batches of an attack have shapes of their own."""
_MOST_SHAPES = 8
"""Each recording holds the memory of a pass."""
_NEAR = (0.02, 0.1)
"""So near must a recording's logits and gradient come, by `Derivative.is_near`: it may run other kernels."""


class CudaGraphs:
    """`forward`, recorded as CUDA graphs for each shape of input that comes back.

    A recording has room for one pass: a second forward that comes before the backward of the first runs unrecorded.
    One that does not give what `forward` gives is not used, and no further one is made.

    Args:
        forward: a function of its input alone, with frozen weights at fixed addresses.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self._forward = forward
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._recorded: dict[tuple[object, ...], Callable[[Tensor], Tensor]] = {}
        self._fails = False
        self._under_way: Callable[[], object] = lambda: None

    def __call__(self, x: Inputs) -> Tensor:
        """What `forward` returns, in memory of its own; so is the gradient."""
        if not (torch.is_grad_enabled() and x.requires_grad) or self._fails or self._under_way() is not None:
            return self._forward(x)
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()
        key = (x.shape, x.dtype)
        self._seen[key] += 1
        if key not in self._recorded and self._seen[key] >= _CAPTURE_AT and len(self._recorded) < _MOST_SHAPES:
            self._record(key, x)
        if key not in self._recorded:
            return self._forward(x)
        x = x.view_as(x)

        def own(grad: Tensor) -> Tensor:
            """The gradient in memory of its own: the recorded one is overwritten by the next pass."""
            self._under_way = lambda: None
            return grad.clone()

        x.register_hook(own)  # type: ignore[no-untyped-call]
        self._under_way = weakref.ref(own)  # until the backward, or until the pass is given up and its graph is gone
        return self._recorded[key](x).clone()

    def _record(self, key: tuple[object, ...], x: Inputs) -> None:
        sample = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        try:
            with warnings.catch_warnings():  # torch keeps the graph of its own warm-up alive, and warns of that
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
                recorded: Any = torch.cuda.make_graphed_callables(self._forward, (sample,))
                faithful = _derivative(recorded, x).is_near(_derivative(self._forward, x), *_NEAR)
        except RuntimeError:  # it waits for the GPU somewhere, which cannot be recorded; as it is, it runs
            faithful = False
        if faithful:
            self._recorded[key] = recorded
        self._fails = not faithful


def _derivative(function: Callable[[Tensor], Tensor], x: Inputs) -> Derivative:
    """Logits and a gradient at all of a batch: a recording takes no other."""
    point = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    logits = function(point)
    (grad,) = torch.autograd.grad(logits.square().sum(), point)
    return Derivative(logits.detach().clone(), grad.clone())
