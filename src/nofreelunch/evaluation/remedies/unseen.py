"""What a model could look at to see whether it is differentiated, for the time of a block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch


def plain_apply(cls: type[torch.autograd.Function], *args: Any) -> Any:
    """A custom function, without its backward pass: its forward is differentiated like any other code."""
    forward: Callable[..., Any] = cls.forward
    if cls.setup_context is not torch.autograd.Function.setup_context:
        return forward(*args)
    context = SimpleNamespace(needs_input_grad=(False,) * len(args))
    for name in ("save_for_backward", "mark_dirty", "mark_non_differentiable", "set_materialize_grads"):
        setattr(context, name, lambda *_: None)
    return forward(context, *args)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is something else for the time of the block, whether it is the owner's own or inherited."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def unseen() -> Iterator[None]:
    """Differentiation goes on, but code that asks whether it does is told no."""
    with (
        replaced(torch, "is_grad_enabled", lambda: False),
        replaced(torch._C, "_len_torch_function_stack", lambda: 0),
        replaced(torch.inference_mode, "__enter__", lambda self: None),
        replaced(torch.inference_mode, "__exit__", lambda self, *error: None),
    ):
        yield
