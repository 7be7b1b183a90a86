"""Copies of models, whatever they are made of, and what they are made of."""

import copy
import functools
import sys
from collections import deque
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

_TRUSTED = sys.stdlib_module_names | {"torch", "numpy"}
"""Whose objects make honest copies of themselves, as do those of all installed packages."""
_MAKERS = {
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__"
}  # fmt: skip
"""What `copy.deepcopy` asks, if it is there."""


def copy_of(model: Any) -> Any:
    """An independent copy, functions with what they enclose included; the model itself where it cannot be copied.

    What makes its copies by code of its own counts as what cannot be copied: who knows what it would give.
    """
    try:
        if isinstance(model, FunctionType):
            return _function_copy(model)
        if any(map(_copies_itself, _everything(model))):
            return model
        if isinstance(model, functools.partial):
            return functools.partial(copy_of(model.func), *copy.deepcopy(model.args), **copy.deepcopy(model.keywords))
        memo: dict[int, Any] = {}
        made = copy.deepcopy(model, memo)
        if isinstance(made, nn.Module):
            _rebind(made, memo)
        return made
    except Exception:  # locks, generators, handles: a user's object may refuse in any way
        return model


def _copies_itself(value: Any) -> bool:
    """Whether code of the user's makes its copies, or has a part in it; what named tuples are given is not theirs."""
    if isinstance(value, type):
        return False
    own = (vars(kind) for kind in type(value).__mro__ if not is_installed(kind.__module__))
    makers = (place[name] for place in (getattr(value, "__dict__", {}), *own) for name in _MAKERS & place.keys())
    return any(not is_installed(getattr(maker, "__module__", None) or "builtins") for maker in makers)


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module belongs to Python or to an installed package, and is not the user's own."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module.partition(".")[0] in _TRUSTED or "site-packages" in file or "dist-packages" in file


def _rebind(made: nn.Module, memo: dict[int, Any]) -> None:
    """Let functions that a copied module holds, such as its hooks, refer to the copy's parts and not to the original's.

    `copy.deepcopy` leaves functions as they are; so are they here, but for what is a part of the module.

    Args:
        made: the copy; changed.
        memo: what became of each part of the original, by its `id`.
    """
    cells: dict[int, CellType] = {}  # functions that share a variable go on sharing it
    for module in made.modules():
        for holder in (vars(module), *(part for part in vars(module).values() if isinstance(part, dict))):
            for name, value in list(holder.items()):
                if isinstance(value, FunctionType):
                    holder[name] = _rebound(value, memo, cells)


def _rebound(function: FunctionType, memo: dict[int, Any], cells: dict[int, CellType]) -> FunctionType:
    """The function over what became of the parts that it encloses or has for defaults; itself, if there are none."""

    def became(value: Any) -> Any:
        if isinstance(value, MethodType) and id(value.__self__) in memo:
            return MethodType(value.__func__, memo[id(value.__self__)])
        return memo.get(id(value), value)

    def cell(old: CellType) -> CellType:
        same = all(became(value) is value for value in _content(old))
        return old if same else cells.setdefault(id(old), CellType(*map(became, _content(old))))

    closure, defaults, named = function.__closure__ or (), function.__defaults__ or (), function.__kwdefaults__ or {}
    if all(became(value) is value for value in parts_of(function)):
        return function
    made = _with_cells(function, tuple(map(cell, closure)))
    made.__defaults__ = tuple(map(became, defaults)) or None
    made.__kwdefaults__ = {name: became(value) for name, value in named.items()} or None
    return made


def _with_cells(function: FunctionType, cells: tuple[CellType, ...]) -> FunctionType:
    """The same code over other enclosed values."""
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
    made.__dict__.update(vars(function))
    return made


def _function_copy(function: FunctionType) -> FunctionType:
    """The same code over copies of the enclosed values and defaults; functions enclosed are copied likewise."""
    closure = function.__closure__ or ()
    made = _with_cells(function, tuple(CellType(*map(copy_of, _content(cell))) for cell in closure))
    made.__defaults__ = function.__defaults__ and tuple(map(copy_of, function.__defaults__))
    made.__kwdefaults__ = {name: copy_of(value) for name, value in (function.__kwdefaults__ or {}).items()}
    made.__dict__.update({name: copy_of(value) for name, value in vars(function).items()})
    return made


def modules_of(model: Any) -> list[nn.Module]:
    """The outermost `nn.Module`s that a model is made of, through closures, bound methods and attributes."""
    return [value for value in _everything(model, below_modules=False) if isinstance(value, nn.Module)]


def _everything(model: Any, below_modules: bool = True) -> list[Any]:
    """A model and all that it is made of, each once, before its parts."""
    found: list[Any] = []
    seen, left = set[int](), [model]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)
        if below_modules or not isinstance(value, nn.Module):
            left += reversed(parts_of(value))
    return found


def all_modules(model: Any) -> list[nn.Module]:
    """Every module that a model is made of, each after the one that holds it."""
    return [module for root in modules_of(model) for _, module in root.named_modules(remove_duplicate=False)]


def parts_of(value: Any) -> list[Any]:
    """What a value holds: enclosed and default values, items, attributes; nothing for plain data and classes."""
    if isinstance(value, FunctionType):
        enclosed = [content for cell in value.__closure__ or () for content in _content(cell)]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return enclosed + defaults + list(vars(value).values())
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, (type, Tensor, np.ndarray, str, bytes, int, float)) or type(value).__module__ == "builtins":
        return []
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]


def _content(cell: CellType) -> list[Any]:
    """What a function's enclosed variable holds: nothing yet, if it has not been assigned."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _slots(kind: type) -> tuple[str, ...]:
    """The names of the attributes that a class makes room for; a single one may be named by itself."""
    names = getattr(kind, "__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)
