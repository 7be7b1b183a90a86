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
_GENERATORS = (
    torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random,
)  # fmt: skip
_DRAWN = "generator "


def fingerprint(model: Any) -> dict[str, str]:
    """Everything that a model holds, by where it holds it; equal before and after a call that left nothing behind."""
    found: dict[str, str] = {}
    _look(model, "", found, set())
    return found


def changed_places(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Where two fingerprints differ."""
    return sorted(place for place in before.keys() | after.keys() if before.get(place) != after.get(place))


def only_drew(before: dict[str, str], changed: list[str]) -> bool:
    """Whether all that changed is the state of random number generators."""
    return all(before.get(place, "").startswith(_DRAWN) for place in changed)


def _look(value: Any, place: str, found: dict[str, str], seen: set[int]) -> None:
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
        for number, part in enumerate(_parts(value)):
            _look(part, f"{place}[{number}]", found, seen)


def _parts(value: Any) -> list[Any]:
    """What it holds; of a generator of Python's all but half of a pair of `gauss`, which its state has as well."""
    if isinstance(value, random.Random):
        return [part for name, part in vars(value).items() if name != "gauss_next"]
    return parts_of(value)


def _plain(value: Any) -> str:
    """What can be compared of one value without looking into it."""
    if isinstance(value, Tensor):
        version = 0 if value.is_inference() else value._version
        place = value.data_ptr() if value.layout == torch.strided else id(value)
        content = value.detach().tolist() if value.numel() <= _SMALL else ""  # numpy and .data change it unnoticed
        return f"{place} {version} {tuple(value.shape)} {content}"
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, (bool, int, float, complex, str, bytes, bytearray, type(None), *_ITERATORS)):
        return repr(value)
    if isinstance(value, _GENERATORS):
        return _DRAWN + hashlib.sha256(_state(value)).hexdigest()
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _state(generator: Any) -> bytes:
    """All that a generator's next numbers depend on; asked of its library, not of what inherits from it."""
    if isinstance(generator, torch.Generator):
        return torch.Generator.get_state(generator).numpy().tobytes()
    if isinstance(generator, random.Random):
        return repr(random.Random.getstate(generator)).encode()
    if isinstance(generator, np.random.RandomState):
        return repr(_plain_state(np.random.RandomState.get_state(generator, legacy=False))).encode()
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return repr(_plain_state(bits.state)).encode()


def _plain_state(state: Any) -> Any:
    """A state as nested items, every number of its arrays included: printing shortens long ones."""
    if isinstance(state, dict):
        return {name: _plain_state(part) for name, part in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state
