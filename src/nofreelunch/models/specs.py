"""Models by the text that a user writes: a file, `zoo:NAME`, `torchvision:NAME`, `python:package.module:factory`."""

import importlib
import sys
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

from nofreelunch.errors import InputError, unknown
from nofreelunch.models.classifier import Pixels
from nofreelunch.models.files import load_file
from nofreelunch.models.foreign import with_weights

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and std for all its classifiers


def load_model(spec: Path | str, weights: Path | str | None = None) -> nn.Module:
    """The model that `spec` names, in evaluation mode; it takes pixels in [0, 1].

    Args:
        spec: the path of a saved model (".safetensors"); `zoo:NAME`, a model that the package ships;
            `torchvision:NAME`, with torchvision's weights unless others are given; `python:package.module:factory`, a
            function of the user's that returns an `nn.Module`.
        weights: a foreign file of weights, for the last two.

    Raises:
        InputError: if there is no such model, or its file is not whole.
    """
    text = str(spec)
    kind, colon, name = text.partition(":")
    if colon and kind in ("torchvision", "python"):
        path = None if weights is None else Path(weights)
        return (_torchvision if kind == "torchvision" else _python)(name, path).eval()
    if weights is not None:
        raise InputError(f"--weights goes with torchvision:NAME or python:MODULE:FACTORY, got {text}")
    if colon and kind == "zoo":
        return load_file(_zoo(name))
    return load_file(_path(text))


def zoo_names() -> tuple[str, ...]:
    """The names of the models that the package ships."""
    folder = Path(str(files("nofreelunch.models") / "zoo"))
    return tuple(sorted(path.stem for path in folder.glob("*.safetensors")))


def _zoo(name: str) -> Path:
    if name not in zoo_names():
        raise unknown("zoo model", name, zoo_names())
    return Path(str(files("nofreelunch.models") / "zoo" / f"{name}.safetensors"))


def _path(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise InputError(f"model {text} is a folder; give the file in it, {path / 'model.safetensors'}")
    if path.suffix != ".safetensors":
        raise InputError(
            f"model {text} is neither a .safetensors file nor zoo:NAME, torchvision:NAME or python:MODULE:FACTORY; "
            "a foreign checkpoint goes to --weights beside one of the last two"
        )
    return path


def _torchvision(name: str, weights: Path | None) -> nn.Module:
    """A network of torchvision behind its normalisation; without a file, with weights that torchvision downloads."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, models.list_models(module=models))
    if weights is not None:
        network = with_weights(models.get_model(name, weights=None), weights)
    else:
        try:
            network = models.get_model(name, weights="DEFAULT")
        except OSError as error:
            raise InputError(
                f"torchvision:{name}: its weights cannot be downloaded ({error}); give --weights FILE"
            ) from None
    return nn.Sequential(Pixels((3, None, None), *_IMAGENET), network)


def _python(name: str, weights: Path | None) -> nn.Module:
    """What the user's function returns; modules are looked for in the present folder too, as `python -m` does."""
    module_name, colon, factory_name = name.partition(":")
    if not (colon and module_name and factory_name):
        raise InputError(f"write python:package.module:factory, got python:{name}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        if not callable(getattr(module, factory_name, None)):
            raise unknown(f"factory in {module_name}", factory_name, [key for key in vars(module) if key[0] != "_"])
        model = getattr(module, factory_name)()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything; it is the input here
        raise InputError(f"python:{name} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        hint = ", a class and not an instance" if isinstance(model, type) else ""
        raise InputError(f"python:{name} must return an nn.Module, got {type(model).__name__}{hint}")
    with torch.no_grad():
        return model if weights is None else with_weights(model, weights)
