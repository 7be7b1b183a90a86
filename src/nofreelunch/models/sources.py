"""Networks that code on this machine makes: torchvision's and the user's own."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nofreelunch.errors import InputError, check_known, unknown
from nofreelunch.models.classifier import Pixels
from nofreelunch.models.copying import is_installed
from nofreelunch.models.declared import Declared, Normalisation, Outputs
from nofreelunch.models.foreign import Weights
from nofreelunch.workspace import without_addresses

_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's for all its classifiers


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that others made.

    Args:
        normalisation: of the pixels in [0, 1] that it wants; None if that is not known, or the network's own business.
        size: height and width of its images; None stands for any.
    """

    network: nn.Module
    normalisation: Normalisation | None = None
    size: tuple[int | None, int | None] = (None, None)

    def completed(self, declared: Declared, other: Normalisation | None = None) -> nn.Module:
        """The network behind its normalisation and before the choice of its outputs, as far as there are any.

        Args:
            declared: what the user says; it wins.
            other: what is known from elsewhere; it is next.
        """
        normalisation = declared.normalisation() if declared.normalises else other or self.normalisation
        layers = [self.network]
        if normalisation is not None:
            channels = len(normalisation.mean)
            layers.insert(0, Pixels((channels if channels > 1 else None, *self.size), *normalisation))
        if declared.labels is not None:
            layers.append(Outputs(declared.labels))
        return nn.Sequential(*layers) if len(layers) > 1 else self.network


def filled(make: Callable[..., nn.Module], weights: Weights) -> nn.Module:
    """A network with these weights, and as many outputs as they are for.

    Args:
        make: makes the network; takes `num_classes`.
    """
    network = make()
    outputs = weights.outputs(network)
    if outputs is not None and outputs != len(list(network.state_dict().values())[-1]):
        network = make(num_classes=outputs)
    return weights.fill(network)


def from_torchvision(name: str, weights: Weights | None) -> LoadedNetwork:
    """A network of torchvision; without a file, with weights that torchvision downloads."""
    from torchvision import models

    check_known("torchvision model", name, models.list_models(module=models))
    if weights is not None:
        return LoadedNetwork(
            filled(lambda **options: models.get_model(name, weights=None, **options), weights), _IMAGENET
        )
    try:
        return LoadedNetwork(models.get_model(name, weights="DEFAULT"), _IMAGENET)
    except OSError as error:
        raise InputError(
            f"torchvision:{name}: its weights cannot be downloaded ({error}); give --weights FILE"
        ) from None


def from_python(name: str, weights: Weights | None) -> LoadedNetwork:
    """What the user's function returns; modules are looked for in the present folder too, as `python -m` does."""
    module_name, colon, factory_name = name.partition(":")
    if not (colon and module_name and factory_name):
        raise InputError(f"write python:package.module:factory, got python:{name}")
    if module_name.endswith(".py"):
        meant = spec_in(module_name, factory_name)
        raise InputError(f"python: takes a module, not a file, got {module_name}; give {meant}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        if not callable(getattr(module, factory_name, None)):
            there = [key for key, value in vars(module).items() if key[0] != "_" and callable(value)]
            raise unknown(f"factory in {module_name}", factory_name, there)
        model = getattr(module, factory_name)()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything; it is the input here
        lost = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        where = f"; it is looked for in {here}, and among what is installed" if lost else ""
        raise InputError(f"python:{name} failed: {type(error).__name__}: {error}{where}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        hint = ", a class and not an instance" if isinstance(model, type) else ""
        raise InputError(f"python:{name} must return an nn.Module, got {type(model).__name__}{hint}")
    return LoadedNetwork(model if weights is None else weights.fill(model))


def spec_in(file: str, factory: str) -> str:
    """How a function in a Python file is named, if the file lies in the present folder or below it."""
    below = not file.startswith(("/", "~", ".."))
    module = file.removeprefix("./").removesuffix(".py").replace("/", ".") if below else "MODULE"
    return f"python:{module}:{factory}"


def code_fingerprint(spec: str, model: nn.Module) -> bytes:
    """How a network is built: its layers, and the files in which they, and a function of the user's, are written.

    Args:
        spec: what the network was loaded from.
    """
    modules = {type(layer).__module__ for layer in model.modules()}
    if spec.startswith("python:"):
        modules.add(spec.split(":")[1])
    files = {getattr(sys.modules.get(module), "__file__", None) for module in modules if not is_installed(module)}
    return without_addresses(model).encode() + b"".join(sorted(Path(file).read_bytes() for file in files if file))
