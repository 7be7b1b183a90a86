"""What a file of tensors says it holds, compared with what a model needs, before anything is allocated.

The safetensors format: eight bytes with the length of the header, the header as JSON, the tensors' bytes.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError

Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> its type and shape."""

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NAMES |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
_NAMES |= {torch.bool: "BOOL"}
_HEADER_CAP = 4 * 2**20  # the header of a network of 10,000 tensors has 1 MiB


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Types and shapes of tensors, as a file would state them."""
    return {
        name: (_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in tensors.items()
    }


def read_layout(content: bytes, path: Path) -> Layout:
    """What a safetensors file says it holds, if its tensors fill the file exactly.

    Raises:
        InputError: if it is no such file, or was cut short.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > _HEADER_CAP:
        raise InputError(f"{path} is not a safetensors file")
    try:
        header = json.loads(content[8 : 8 + length])
        entries = {name: _entry(header[name]) for name in header if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is not a safetensors file, or its header is corrupt") from None
    end = 0
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if (start, stop) != (end, end + _BYTES[dtype] * math.prod(shape)):
            raise InputError(f"{path} is corrupt: its header puts {name} where it cannot be")
        end = stop
    if 8 + length + end != len(content):
        raise InputError(
            f"{path} is truncated or corrupt: its header speaks of {8 + length + end} bytes, it has {len(content)}"
        )
    return {name: (dtype, shape) for name, (dtype, shape, _, _) in entries.items()}


def _entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, and first and last byte of a tensor, from its entry in the header."""
    dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in _BYTES or any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError
    return dtype, shape, start, stop


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
