"""Models by the text that a user writes: a file, or KIND:NAME."""

import os
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

from torch import nn

from nofreelunch.errors import InputError, listed
from nofreelunch.models.classifier import Card
from nofreelunch.models.declared import Declared
from nofreelunch.models.files import load_file, read_card
from nofreelunch.models.foreign import Weights, check_no_program, read_weights
from nofreelunch.models.hubs import from_hugging_face, from_timm
from nofreelunch.models.onnx import from_onnx
from nofreelunch.models.sources import LoadedNetwork, from_python, from_torchvision, spec_in
from nofreelunch.names import check_model
from nofreelunch.workspace import digest

SOURCES: dict[str, Callable[[str, Weights | None], LoadedNetwork]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "python": from_python,
}
"""Kind of network -> function of its name and of weights that lie elsewhere."""

WHOLE: dict[str, Callable[[str], LoadedNetwork]] = {"hf": from_hugging_face, "onnx": from_onnx}
"""Kind of model -> function of its place; it has its weights."""

_PLACES = {"python": "MODULE:FACTORY", "hf": "NAME_OR_DIR", "onnx": "FILE"}


def load_model(spec: Path | str, weights: Path | str | None = None, declared: Declared | None = None) -> nn.Module:
    """The model that `spec` names, in evaluation mode; it takes pixels in [0, 1].

    Args:
        spec: the path of a saved model (".safetensors"); `zoo:NAME`, a model that the package ships;
            `torchvision:NAME` or `timm:NAME`, with the library's weights unless others are given; `hf:NAME_OR_DIR`, a
            Hugging Face image classifier; `onnx:FILE` or a path that ends in ".onnx";
            `python:package.module:factory`, a function of the user's that returns an `nn.Module`.
        weights: a foreign file of weights, for torchvision, timm and python.
        declared: what the user says about the pixels and outputs of a model that others made; it wins over what the
            model comes with.

    Raises:
        InputError: if there is no such model, or its file is not whole.
    """
    text, said = str(spec), declared or Declared()
    kind, _, name = text.partition(":")
    if kind in SOURCES:
        read = None if weights is None else read_weights(Path(weights))
        found = SOURCES[kind](name, read)
        return found.completed(said, None if read is None else read.normalisation).eval()
    if weights is not None:
        raise InputError(f"--weights goes with {_named(SOURCES)}, got {text}")
    if kind in WHOLE or text.endswith(".onnx"):
        found = WHOLE[kind](name) if kind in WHOLE else from_onnx(text)
        return found.completed(said).eval()
    if said.normalises:
        raise InputError(f"{text} normalises pixels itself; leave out --mean, --std and --range")
    return LoadedNetwork(load_file(_zoo(name) if kind == "zoo" else _path(text))).completed(said).eval()


def zoo_card(name: str) -> Card:
    """What a model of the package is.

    Raises:
        InputError: if there is none of that name.
    """
    return read_card(_zoo(name))


def zoo_digest(name: str) -> str:
    """Another one for another model: that of its JSON, which holds the digest of its weights.

    Raises:
        InputError: if there is none of that name.
    """
    return digest(_zoo(name).with_suffix(".json").read_bytes())


def _zoo(name: str) -> Path:
    check_model(f"zoo:{name}")
    return Path(str(files("nofreelunch.models") / "zoo" / f"{name}.safetensors"))


def _path(text: str) -> Path:
    if not text:
        raise InputError("the model's name is empty; give a file, or zoo:NAME")
    path = Path(text)
    if os.path.isdir(path):
        raise InputError(
            f"model {text} is a folder; give the file in it, {path / 'model.safetensors'}, or hf:{text} if it is "
            "Hugging Face's"
        )
    if path.suffix != ".safetensors":
        check_no_program(path)
        file, _, factory = text.partition(":")
        own = f"; a function of yours is {spec_in(file, factory)}" if file.endswith(".py") else ""
        raise InputError(
            f"model {text} is neither a .safetensors nor an .onnx file, nor {_named(['zoo', *SOURCES, *WHOLE])}; "
            f"a foreign checkpoint goes to --weights beside {_named(SOURCES)}" + own
        )
    check_model(text)
    return path


def _named(kinds: Iterable[str]) -> str:
    """The kinds as a user writes them."""
    return listed((f"{kind}:{_PLACES.get(kind, 'NAME')}" for kind in kinds), "or")
