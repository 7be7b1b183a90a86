"""Files of tensors, each with a sealed JSON beside it; what they hold, compared with what a model needs."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from nofreelunch.errors import InputError
from nofreelunch.files import atomic_write
from nofreelunch.workspace import digest, sealed


def pair(tensors: Mapping[str, Tensor], about: Mapping[str, Any], key: str) -> tuple[bytes, bytes]:
    """The tensors as a safetensors file, and the sealed JSON that holds its SHA-256 under `key` besides `about`."""
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    users = Counter(value.untyped_storage().data_ptr() for value in kept.values())  # a file has no tied weights
    shared = {name: value.clone() for name, value in kept.items() if users[value.untyped_storage().data_ptr()] > 1}
    content = save(kept | shared)
    return content, sealed({**about, key: digest(content)})


def write_pair(path: Path, content: bytes, about: bytes) -> None:
    """Write the tensors to `path`, then the JSON beside it.

    Raises:
        RunError: if they cannot be written.
    """
    atomic_write(path, content)
    atomic_write(path.with_suffix(".json"), about)


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file.

    Raises:
        InputError: if it is no such file, or was cut short.
    """
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that torch has not
        raise InputError(f"{path} is not a safetensors file, or it is truncated or corrupt: {error}") from None


def check_fits(found: Mapping[str, Tensor], model: nn.Module, path: Path, *, halved: bool = False) -> None:
    """Refuse tensors that are not exactly the model's.

    Args:
        model: what it should be for; may be on the meta device.
        halved: whether float32 may be stored as float16.

    Raises:
        InputError: naming the first differences.
    """
    wanted = model.state_dict()
    differences = [f"{name} is missing" for name in wanted if name not in found]
    differences += [f"{name} is not in the model" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        want, have = wanted[name], found[name]
        if want.shape != have.shape:
            differences.append(f"{name} has shape {tuple(have.shape)} and not {tuple(want.shape)}")
        elif have.dtype != want.dtype and not (halved and (want.dtype, have.dtype) == (torch.float32, torch.float16)):
            differences.append(f"{name} has type {have.dtype} and not {want.dtype}")
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(f"{path} does not fit the model: {'; '.join(sorted(differences)[:3])}{more}")
