"""An accelerator that is not there: tensors in this machine's memory that say they lie elsewhere, and mind it.

What a GPU refuses is refused here: an operation on tensors of two devices, but for single numbers, and for indices into
what lies on the accelerator. It is called "meta", the only device beside the CPU that autograd takes everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("meta")
_CROSSING = {"aten::_to_copy", "aten::copy_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}


class Remote(Tensor):
    """A tensor of the accelerator."""

    local: Tensor

    @staticmethod
    def __new__(cls, local: Tensor) -> "Remote":
        made = Tensor._make_wrapper_subclass(
            cls, local.size(), strides=local.stride(), storage_offset=local.storage_offset(), dtype=local.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.local = local
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Remote({self.local!r})"

    def tolist(self) -> Any:
        return self.local.tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError("what lies on the accelerator cannot be had as an array of numpy's")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Everything(TorchDispatchMode):
    """Sees what makes tensors from nothing as well."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on this machine's memory, where its tensors lie together."""
    name, values = function._schema.name, [*_leaves([*args, *kwargs.values()])]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if any(type(value) is Tensor and value.device == DEVICE for value in tensors):
        raise NotImplementedError(f"{name}: of a tensor that was made where nothing sees it, as of a list of indices")
    there = any(isinstance(value, Remote) for value in tensors)
    if there and name not in _CROSSING:
        met = [args[0], *args[2:3]] if name in _INDEXED else tensors
        if any(type(value) is Tensor and value.dim() > 0 for value in met):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    if name == "aten::copy_":
        there = isinstance(args[0], Remote)
    if there and any(isinstance(value, torch.Generator) for value in values):
        raise RuntimeError(f"{name}: a generator of the CPU's cannot draw on the accelerator")
    own_kwargs = {key: _changed(Remote, _local, value) for key, value in kwargs.items()}
    result = function(*_changed(Remote, _local, args), **own_kwargs)
    return return_and_correct_aliasing(function, args, kwargs, _changed(Tensor, Remote, result)) if there else result


def _local(value: Remote) -> Tensor:
    return value.local


def _leaves(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _changed(kind: type, change: Callable[[Any], Any], value: Any) -> Any:
    """The value with each thing of a kind in it changed."""
    if isinstance(value, kind):
        return change(value)
    return type(value)(_changed(kind, change, one) for one in value) if type(value) in (list, tuple) else value


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """For the time of the block the machine has an accelerator."""
    autocast, tensor = torch.autocast, torch.tensor
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"

    def autocast_there(device: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device == DEVICE.type else device, *args, **kwargs)

    def tensor_there(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        made = tensor(data, **kwargs)
        return made if device is None else made.to(device)

    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # `data =` would leave the numbers behind
    try:
        with (
            _Everything(),
            mock.patch.object(torch, "autocast", autocast_there),
            mock.patch.object(torch, "tensor", tensor_there),
            mock.patch(fused, return_value=["cpu", DEVICE.type]),
        ):
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
