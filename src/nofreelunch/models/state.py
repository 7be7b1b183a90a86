"""A model is given back as it was found."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Every sub-module in evaluation mode for the time of the block, then each in its own mode again.

    Anything that is not an `nn.Module` has no modes and is left alone.
    """
    modules = (module for model in models if isinstance(model, nn.Module) for module in model.modules())
    modes = {
        module: module.training for module in modules if hasattr(module, "training")
    }  # frozen TorchScript has none
    try:
        _set(dict.fromkeys(modes, False))
        yield
    finally:
        _set(modes)


def _set(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        if module.training != mode:  # to set an attribute of a module takes longer than to read it
            module.training = mode
