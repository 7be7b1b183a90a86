"""The model on trial: it is called only through here, never changed, and judged as it would be used.

All calls go to private copies, so that nothing that happens in an evaluation is left on the model (one that cannot be
copied is called itself). A model that changes when it is called (a counter, a cache) gets a fresh copy for every call:
it can then learn nothing from the attack, and the order of the questions does not matter.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nofreelunch.attacks.door import answering, as_tensor, check_model, out_of_memory
from nofreelunch.errors import InputError, RunError, check_seed, reason
from nofreelunch.models.copying import all_modules, copy_of, modules_of
from nofreelunch.models.state import evaluating
from nofreelunch.rng import seeded
from nofreelunch.types import Model
from nofreelunch.workspace import without_addresses

T = TypeVar("T")


class Subject:
    """A model and what is needed to ask it fairly.

    Args:
        model: any callable from inputs to logits; often an `nn.Module`.

    Attributes:
        pristine: a copy that is never called.
        working: the copy that is called; what fast versions and surrogates are made from.
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
        self.pristine, self.working = (_evaluated(copy_of(model), model) for _ in range(2))
        self.stateful, self.classes = False, 0
        parameters = [parameter for module in modules_of(model) for parameter in module.parameters()]
        if any(map(is_lazy, parameters)):
            raise InputError(
                "the model has layers without weights yet, such as LazyLinear; call it once on a batch first"
            )
        weight = next((parameter for parameter in parameters if parameter.is_floating_point()), None)
        self.dtype = torch.float32 if weight is None else weight.dtype
        self.device = torch.device("cpu") if weight is None else weight.device

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors and plain attributes of all modules that it is made of, and of its type's name."""
        sha = hashlib.sha256(type(self.pristine).__qualname__.encode())
        for module in all_modules(self.pristine):
            plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float, str, tuple))}
            plain["training"] = False  # it is evaluated in evaluation mode
            sha.update(f"{type(module).__qualname__} {without_addresses(sorted(plain.items()))}".encode())
            for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                sha.update(name.encode())
                sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def callee(self) -> Model:
        """The copy to be called next; one that cannot be copied is always itself."""
        fresh = self.stateful and self.pristine is not self.working
        called: Model = copy_of(self.pristine) if fresh else self.working
        return called

    def logits(self, x: Tensor) -> Tensor:
        """The model's answer as in use: evaluation mode, no gradients, no autocast, in at least float32."""
        return self.ask(self.callee(), x)

    def ask(self, model: Model, x: Tensor) -> Tensor:
        """The same of one of its copies."""
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
        with as_in_use(x.device, model), answering(x):
            logits = as_tensor(model(x.to(self.dtype).clone()))
        return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def gradients_kept(model: Model) -> Iterator[None]:
    """What a model that differentiates itself leaves in the `grad` of its parameters is gone after the block."""
    parameters = [parameter for module in modules_of(model) for parameter in module.parameters()]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.grad = grad


@contextmanager
def as_in_use(device: torch.device, model: Model) -> Iterator[None]:
    """Every module of the model in evaluation mode, and no autocast, for the time of the block."""
    with evaluating(*modules_of(model)), torch.autocast(device.type, enabled=False):
        yield


def reseed(seed: int) -> None:
    """Global random numbers, which a randomised model may draw, go on as a function of the seed."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the model's, not ours
    random.seed(seed)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Global random numbers that are a function of the seed inside the block, and untouched outside.

    Nothing of ours draws them; a randomised model may.
    """
    check_seed(seed)
    with seeded(seed):
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the model's, not ours
        try:
            reseed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def attempted(compute: Callable[[], T], failed: Callable[[str], object] | None = None) -> T | None:
    """What the user's code makes of it; None, and `failed` is told why, if it fails but for lack of memory."""
    try:
        return compute()
    except (Exception, SystemExit) as error:  # any code may run in a model, and fail in any way
        if out_of_memory(error) or isinstance(error, RunError):
            raise
        if failed is not None:
            failed(reason(error.__cause__ or error))
        return None


def _evaluated(copied: Any, model: Any) -> Any:
    """The copy after `eval()`, which may do more than to set a flag; what could not be copied stays as it is."""
    if copied is not model:
        for module in modules_of(copied):
            with suppress(Exception):  # of frozen programs, and of the user's code
                module.eval()
    return copied
