"""Whether a model changes when it is called."""

import hashlib
import itertools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nofreelunch.models.copying import parts_of

_SMALL = 64
_ITERATORS = (itertools.count, itertools.cycle)


def fingerprint(model: Any) -> dict[str, str]:
    """Everything that a model holds, by where it holds it; equal before and after a call that left nothing behind.

    Random number generators are left out: drawing from them is randomness, not memory.
    """
    found: dict[str, str] = {}
    _look(model, "", found, set())
    return found


def changed_places(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Where two fingerprints differ."""
    return sorted(place for place in before.keys() | after.keys() if before.get(place) != after.get(place))


def _look(value: Any, place: str, found: dict[str, str], seen: set[int]) -> None:
    if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
        return
    found[place] = _plain(value)
    if isinstance(value, Tensor) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        for key, part in list(value.items()):
            _look(part, f"{place}.{key}", found, seen)
    elif isinstance(value, nn.Module):
        for name, part in list(vars(value).items()):
            _look(part, f"{place}.{name}", found, seen)
    else:
        for number, part in enumerate(parts_of(value)):
            _look(part, f"{place}[{number}]", found, seen)


def _plain(value: Any) -> str:
    """What can be compared of one value without looking into it."""
    if isinstance(value, Tensor):
        version = 0 if value.is_inference() else value._version
        place = value.data_ptr() if value.layout == torch.strided else id(value)
        content = value.detach().tolist() if value.numel() <= _SMALL else ""  # numpy and .data change it unnoticed
        return f"{place} {version} {tuple(value.shape)} {content}"
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), *_ITERATORS)):
        return repr(value)
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
