"""Forward and backward pass as one launch each: small networks keep a GPU waiting for their kernels to be launched."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nofreelunch.types import Inputs

_CAPTURE_AT = 3
_MOST_SHAPES = 8


class CudaGraphs:
    """`forward`, recorded as CUDA graphs for each shape of input that comes back.

    A recording has room for one pass: a second forward that comes before the backward of the first runs unrecorded.

    Args:
        forward: a function of its input alone, with frozen weights at fixed addresses.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self._forward = forward
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._recorded: dict[tuple[object, ...], Callable[[Tensor], Tensor]] = {}
        self._fails = False
        self._pending = False

    def __call__(self, x: Inputs) -> Tensor:
        """What `forward` returns, in memory of its own; so is the gradient."""
        if not (torch.is_grad_enabled() and x.requires_grad) or self._fails or self._pending:
            return self._forward(x)
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()
        key = (x.shape, x.dtype)
        self._seen[key] += 1
        if key not in self._recorded and self._seen[key] >= _CAPTURE_AT and len(self._recorded) < _MOST_SHAPES:
            self._record(key, x)
        if key not in self._recorded:
            return self._forward(x)
        x = x.view_as(x)
        x.register_hook(self._own)  # type: ignore[no-untyped-call]
        self._pending = True
        return self._recorded[key](x).clone()

    def _own(self, grad: Tensor) -> Tensor:
        """The gradient in memory of its own: the recorded one is overwritten by the next pass."""
        self._pending = False
        return grad.clone()

    def _record(self, key: tuple[object, ...], x: Inputs) -> None:
        sample = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        try:
            recorded: Any = torch.cuda.make_graphed_callables(self._forward, (sample,))
        except RuntimeError:  # it waits for the GPU somewhere, which cannot be recorded; as it is, it runs
            self._fails = True
        else:
            self._recorded[key] = recorded
