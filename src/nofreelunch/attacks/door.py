"""The door of every attack: what comes in is checked once, and what is done behind it leaves the model as it was."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nofreelunch.attacks.eot import Averaged
from nofreelunch.errors import InputError, brief, reason
from nofreelunch.models.fast import judge, live
from nofreelunch.models.state import evaluating
from nofreelunch.threats import Box
from nofreelunch.types import Model


@contextmanager
def attacking(model: Model, device: torch.device) -> "Iterator[Precise]":
    """The model as attacks want it, for the time of the block.

    It is in evaluation mode, differentiable whatever the caller has switched off (`no_grad`, `inference_mode`), free of
    autocast, takes inputs of any float type and answers in at least float32. If it stands for another model, that one
    is its `judge`. What is `Precise` already stays as it is.
    """
    weights = whole.parameters() if isinstance(whole := live(model), nn.Module) else ()
    parameter = next((p for p in weights if p.is_floating_point()), None)
    if parameter is not None and parameter.device != device:
        raise InputError(f"the model is on {parameter.device} and x on {device}; move one of them")

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        dtype = None if parameter is None else parameter.dtype
        yield model if isinstance(model, Precise) else Precise(model, dtype, judge(model), is_random(model))


@dataclass(frozen=True)
class Precise:
    """Logits in at least float32 from inputs of any float type.

    Args:
        model: whose logits.
        dtype: of its weights; None if it has none.
        judge: as `fast.judge` says.
        random: whether it answers otherwise at each call.
    """

    model: Model
    dtype: torch.dtype | None
    judge: Model | None = None
    random: bool = False

    def __call__(self, x: Tensor) -> Any:
        """The logits, which `first_logits` has seen to be a tensor; a model that works in place gets a copy."""
        with answering(x):
            logits = self.model(x.clone() if self.dtype in (None, x.dtype) else x.to(self.dtype))
        widened = isinstance(logits, Tensor) and logits.dtype != torch.float64 and not logits.is_complex()
        return logits.float() if widened else logits


def is_random(model: Model) -> bool:
    """Whether it is the mean of a randomised model's answers, and so answers otherwise at each call."""
    return model.random if isinstance(model, Precise) else isinstance(model, Averaged)


def check_batch(model: object, x: Tensor, y: Tensor, box: Box, name: str = "y") -> Tensor:
    """The labels (called `name` in messages) as int64, if model, inputs and labels can be attacked.

    Raises:
        InputError: if the model is not an instance, inputs are not finite floats in the box, or labels are not
            integers, one for each.
    """
    check_model(model)
    check_dense(x=x, **{name: y})
    _check_inputs(x, box)
    return _as_labels(y, x, name)


def check_model(model: object) -> None:
    """Refuse what cannot be asked for logits."""
    if isinstance(model, type):
        raise InputError(f"model must be an instance, got the class {model.__name__}; write {model.__name__}(...)")
    if not callable(model):
        raise InputError(f"model must be a callable from inputs to logits, got {brief(model)}")


def check_dense(**given: object) -> None:
    """Refuse, under its name, what is not a tensor or keeps only some of its numbers."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(value).__name__}; torch.as_tensor({name}) makes one")
        if value.layout != torch.strided:
            raise InputError(f"{name} must be a dense tensor, got {value.layout}; {name}.to_dense() makes one")


def _check_inputs(x: Tensor, box: Box) -> None:
    if x.dtype == torch.uint8:
        raise InputError("x is uint8; pixels must be floats in [0, 1]: use x.float() / 255")
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"x must be float32 or float64, got {x.dtype}")
    if x.dim() < 2:
        raise InputError(f"x must have a batch dimension and at least one more, got shape {tuple(x.shape)}")
    if x.numel() == 0:
        return
    bad = ~x.isfinite().flatten(1).all(1)
    if bad.any():
        raise InputError(f"x must be finite; example {int(bad.int().argmax())} holds NaN or infinity")
    if box is not None and not (x.min() >= box[0] and x.max() <= box[1]):
        fix = "divide by 255" if x.min() >= 0 and x.max() > 2 else "normalise inside the model, not before the attack"
        seen = f"from {x.min():.4g} to {x.max():.4g}"
        raise InputError(f"x must lie in [{box[0]:g}, {box[1]:g}], got values {seen}; if these are images, {fix}")


def _as_labels(y: Tensor, x: Tensor, name: str) -> Tensor:
    if y.dim() != 1:
        hint = f"; for one-hot labels use {name}.argmax(1)" if y.dim() == 2 else ""
        raise InputError(f"{name} must have one label per example, shape ({len(x)},), got shape {tuple(y.shape)}{hint}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"{name} must hold integers, got {y.dtype}")
    if len(y) != len(x):
        raise InputError(f"x holds {len(x)} examples and {name} {len(y)} labels")
    if y.device != x.device:
        raise InputError(f"x is on {x.device} and {name} on {y.device}; move one of them")
    return y.long().clone()


def as_tensor(answer: object) -> Tensor:
    """A model's answer if it is a tensor; an `InputError` otherwise."""
    if isinstance(answer, Tensor):
        if answer.is_complex():
            raise InputError(f"the model must return real logits, got {answer.dtype}; take their absolute values")
        return answer if answer.layout == torch.strided else answer.to_dense()
    raise InputError(f"the model must return a tensor of logits, got {type(answer).__name__}; wrap it to select them")


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what has failed, on a GPU or on a CPU, of which torch says it only in words."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def answering(x: Tensor) -> Iterator[None]:
    """Whatever a model raises inside the block is an `InputError` that says so; out of memory stays what it is."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # any code may run in a model, and fail in any way
        if out_of_memory(error):
            raise
        told = type(error).__name__ if isinstance(error, SystemExit) else reason(error)
        raise InputError(f"the model cannot take x of shape {tuple(x.shape)} and type {x.dtype}: {told}") from error


def first_logits(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The model's logits at the inputs as they came.

    Raises:
        InputError: if the model cannot take them, does not answer with logits (n, k) for at least 2 classes, or knows
            fewer classes than the labels do.
    """
    with torch.no_grad():
        logits = as_tensor(model(x))
    if logits.dim() != 2 or len(logits) != len(x):
        hint = "; a binary model may be wrapped to return [-z, z]" if logits.dim() == 1 else ""
        raise InputError(f"the model must return logits (n, k), got {tuple(logits.shape)} for x {tuple(x.shape)}{hint}")
    if logits.shape[1] < 2:
        raise InputError("the model must return at least 2 logits, got 1; wrap a binary model to return [-z, z]")
    check_labels(y, logits)
    return logits


def check_labels(y: Tensor, logits: Tensor) -> None:
    """Refuse labels, if there are any, that the logits have no place for."""
    classes = logits.shape[1]
    if len(y) > 0 and (y.min() < 0 or y.max() >= classes):
        seen = int(y.min()) if y.min() < 0 else int(y.max())
        raise InputError(f"label {seen} seen, but the model has {classes} outputs (0..{classes - 1})")
