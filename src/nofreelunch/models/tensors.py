"""What a file of tensors holds, compared with what a model needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from nofreelunch.errors import InputError

Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> its type and shape."""

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NAMES |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
_NAMES |= {torch.bool: "BOOL"}


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Types and shapes of tensors, as a file would state them."""
    return {
        name: (_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in tensors.items()
    }


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file.

    Raises:
        InputError: if it is no such file, or was cut short.
    """
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that torch has not
        raise InputError(f"{path} is not a safetensors file, or it is truncated or corrupt: {error}") from None


def check_fits(found: Layout, model: nn.Module, path: Path, *, halved: bool = False) -> None:
    """Refuse tensors that are not exactly the model's.

    Args:
        found: what the file holds.
        model: what it should be for; may be on the meta device.
        path: the file, for the message.
        halved: whether float32 may be stored as float16.

    Raises:
        InputError: naming the first differences.
    """
    wanted = layout(model.state_dict())
    differences = [f"{name} is missing" for name in wanted if name not in found]
    differences += [f"{name} is not in the model" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        (want, shape), (have, seen) = wanted[name], found[name]
        if shape != seen:
            differences.append(f"{name} has shape {seen} and not {shape}")
        elif have != want and not (halved and (want, have) == ("F32", "F16")):
            differences.append(f"{name} has type {have} and not {want}")
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(f"{path} does not fit the model: {'; '.join(sorted(differences)[:3])}{more}")
