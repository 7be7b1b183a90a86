"""The model on trial: it is called only through here, never changed, and judged as it would be used.

All calls go to private copies, so that nothing that happens in an evaluation is left on the model (one that cannot be
copied is called itself). A model that changes when it is called (a counter, a cache) gets a fresh copy for every call:
it can then learn nothing from the attack, and the order of the questions does not matter.
"""

import copy
import functools
import hashlib
import random
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nofreelunch.attacks.door import answering, as_tensor, check_model
from nofreelunch.errors import InputError, check_count
from nofreelunch.models.state import evaluating
from nofreelunch.types import Model


class Subject:
    """A model and what is needed to ask it fairly.

    Args:
        model: any callable from inputs to logits; often an `nn.Module`.

    Attributes:
        pristine: a copy that is never called.
        working: the copy that is called; what fast versions and guides are made from.
        stateful: whether calling changes it; set by the checks.
        came_training: whether the model came with layers in training mode.
        classes: how many logits it answers; 0 before it was asked.
        dtype: of its weights; float32 if it has none.
        device: where they are.

    Raises:
        InputError: if the model is a class or cannot be called.
    """

    def __init__(self, model: Model) -> None:
        check_model(model)
        self.came_training = isinstance(model, nn.Module) and any(
            getattr(module, "training", False) for module in model.modules()
        )
        self.pristine, self.working = (_evaluated(twin(model), model) for _ in range(2))
        self.stateful, self.classes = False, 0
        weight = next((p for module in modules_of(model) for p in module.parameters() if p.is_floating_point()), None)
        self.dtype = torch.float32 if weight is None else weight.dtype
        self.device = torch.device("cpu") if weight is None else weight.device

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors and plain attributes of all modules that it is made of, and of its type's name."""
        sha = hashlib.sha256(type(self.pristine).__qualname__.encode())
        for module in all_modules(self.pristine):
            plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float, str, tuple))}
            plain["training"] = False  # it is evaluated in evaluation mode
            sha.update(f"{type(module).__qualname__} {sorted(plain.items())}".encode())
            for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                sha.update(name.encode())
                sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def callee(self) -> Model:
        """The copy to be called next."""
        called: Model = twin(self.pristine) if self.stateful else self.working
        return called

    def logits(self, x: Tensor) -> Tensor:
        """The model's answer as in use: evaluation mode, no gradients, no autocast, in at least float32."""
        model = self.callee()
        with as_in_use(x.device, model), torch.no_grad(), answering(x):
            logits = as_tensor(model(x.detach().to(self.dtype, copy=True)))
        logits = logits.clone()  # an ordinary tensor even if it was made in inference mode
        self._check_shape(logits, len(x))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _check_shape(self, logits: Tensor, rows: int) -> None:
        """An `InputError` where the answer has not one row for each example, or other classes than the first one."""
        if self.classes == 0 and logits.dim() == 2:
            self.classes = logits.shape[1]
        if self.classes and tuple(logits.shape) != (rows, self.classes):
            expected = f"({rows}, {self.classes})"
            raise InputError(f"the model must return logits of shape {expected}, got shape {tuple(logits.shape)}")

    def differentiable(self, x: Tensor) -> Tensor:
        """The same function, to be differentiated; a model that changes when called is a fresh copy here too."""
        model = self.callee()
        with as_in_use(x.device, model):
            logits = as_tensor(model(x.to(self.dtype).clone()))
        return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def as_in_use(device: torch.device, model: Model) -> Iterator[None]:
    """Every module of the model in evaluation mode, and no autocast, for the time of the block."""
    with ExitStack() as stack:
        for module in modules_of(model):
            stack.enter_context(evaluating(module))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Global random numbers that are a function of the seed inside the block, and untouched outside.

    Nothing of ours draws them; a randomised model may.
    """
    check_count("seed", seed, low=0)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the model's, not ours
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def twin(model: Any) -> Any:
    """An independent copy, functions with what they enclose included; the model itself where it cannot be copied."""
    try:
        if isinstance(model, FunctionType):
            return _function_twin(model)
        if isinstance(model, nn.Module) and any(map(_copies_itself, model.modules())):
            return model  # who knows what it would give us
        if isinstance(model, functools.partial):
            return functools.partial(twin(model.func), *copy.deepcopy(model.args), **copy.deepcopy(model.keywords))
        return copy.deepcopy(model)
    except Exception:  # locks, generators, handles: a user's object may refuse in any way
        return model


def _evaluated(copied: Any, model: Any) -> Any:
    """The copy after `eval()`, which may do more than to set a flag; what could not be copied stays as it is."""
    if copied is not model:
        for module in modules_of(copied):
            with suppress(Exception):  # of frozen programs, and of the user's code
                module.eval()
    return copied


def _copies_itself(module: nn.Module) -> bool:
    """Whether code of the user's makes its copies."""
    makers = (
        kind for kind in type(module).__mro__ if {"__deepcopy__", "__reduce_ex__", "__reduce__"} & vars(kind).keys()
    )
    return next(makers, object).__module__.partition(".")[0] not in ("torch", "builtins")


def _function_twin(function: FunctionType) -> FunctionType:
    """The same code over copies of the enclosed values and defaults; functions enclosed are copied likewise."""
    cells = tuple(CellType(twin(cell.cell_contents)) for cell in function.__closure__ or ())
    defaults = copy.deepcopy(function.__defaults__)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells or None)
    made.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__)
    made.__dict__.update(copy.deepcopy(function.__dict__))
    return made


def modules_of(model: Any) -> list[nn.Module]:
    """The outermost `nn.Module`s that a model is made of, through closures, bound methods and attributes."""
    found: list[nn.Module] = []
    _collect(model, found, set())
    return found


def _collect(value: Any, found: list[nn.Module], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        found.append(value)
    else:
        for part in parts_of(value):
            _collect(part, found, seen)


def all_modules(model: Any) -> list[nn.Module]:
    """Every module that a model is made of, each after the one that holds it."""
    return [module for root in modules_of(model) for _, module in root.named_modules(remove_duplicate=False)]


def parts_of(value: Any) -> list[Any]:
    """What a value holds: enclosed and default values, items, attributes; nothing for plain data and classes."""
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or ()] + list(value.__defaults__ or ())
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


def _slots(kind: type) -> tuple[str, ...]:
    """The names of the attributes that a class makes room for; a single one may be named by itself."""
    names = getattr(kind, "__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)
