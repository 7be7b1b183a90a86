"""Weights that others saved. They are data to us: never unpickled, never executed, never trusted for their shapes."""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError
from nofreelunch.files import read_bytes
from nofreelunch.models.declared import Declared, Normalisation
from nofreelunch.models.tensors import check_fits, read_tensors

Network = TypeVar("Network", bound=nn.Module)

_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that torch before 1.6 saved: pickles and raw numbers one after the other, without an archive."""
_SAFE_SINCE = (2, 10)  # before, the restricted reader had holes: CVE-2025-32434, GHSA-63cw-57p8-fm3p
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SCRIPT = "TorchScript can read and write files"
_EXPORTED = "torch evaluates and unpickles parts of exported programs to load them"
_WAY_OUT = "export it to ONNX, or build it in Python and give python:MODULE:FACTORY"
_PROGRAM_FILES = ("serialized_exported_program.json", "archive_format", "/archive_version")
_MOST_OUTPUTS, _MOST_CHANNELS = 10**5, 2**10
_NORMALISERS = ("normalizer.new_mean", "normalizer.new_std"), ("pixels.mean", "pixels.std")
"""Mean and standard deviation, as the `robustness` library and our own models keep them."""


_OURS = "network."
_ASIDE = ("attacker.", "normalizer.", "pixels.")
"""What lies beside the network where a normalisation does."""


@dataclass(frozen=True)
class Weights:
    """What a foreign file holds.

    Args:
        path: the file, for messages.
        normalisation: that it speaks of, if it does.
    """

    path: Path
    tensors: dict[str, Tensor] = field(repr=False)
    normalisation: Normalisation | None = None

    def outputs(self, network: nn.Module) -> int | None:
        """The number of classes: the first dimension of the tensor that has the name of the network's last one.

        None where it is not there, or is so long that a network for it might not fit into the memory.
        """
        last = self.tensors.get(list(network.state_dict())[-1])
        return None if last is None or last.ndim == 0 or len(last) > _MOST_OUTPUTS else len(last)

    def fill(self, model: Network) -> Network:
        """The model with these weights; float types are converted, names and shapes must be the model's.

        Raises:
            InputError: if they are not.
        """
        wanted = model.state_dict()
        named = [{prefix + name: value for name, value in self.tensors.items()} for prefix in ("", *_PREFIXES)]
        if len({name.partition(".")[0] for name in self.tensors}) == 1:  # whatever wraps the network
            named.append({name.partition(".")[2]: value for name, value in self.tensors.items()})
        tensors = next((one for one in named if one.keys() == wanted.keys()), dict(self.tensors))
        for name in tensors.keys() & wanted.keys():
            if tensors[name].shape == wanted[name].shape and tensors[name].is_floating_point():
                tensors[name] = tensors[name].to(wanted[name].dtype)
        check_fits(tensors, model, self.path)
        model.load_state_dict(tensors)
        return model


def read_weights(path: Path) -> Weights:
    """The weights in a foreign file: safetensors, or a state dict that `torch.save` wrote.

    A dictionary that holds the state dict under one of its usual names is looked into, and the prefixes that
    wrappers leave ("module.", "_orig_mod.", "model.") are removed. The wrapper of the `robustness` library, which keeps
    the network twice beside its normalisation, is taken apart, and so are our own models.

    Raises:
        InputError: if the file is anything else.
    """
    if not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "missing"
        raise InputError(f"--weights {path} is {kind}; give a file of weights")
    tensors = read_tensors(read_bytes(path), path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors = _without_prefixes(tensors)
    known = next((names for names in _NORMALISERS if tensors.keys() >= set(names)), None)
    if known is None:
        return Weights(path, tensors)
    found = [tensors[name] for name in known]
    if max(value.numel() for value in found) > _MOST_CHANNELS:
        raise InputError(f"--weights {path}: its normalizer is none: no image has so many channels")
    mean, std = (tuple(value.double().flatten().tolist()) for value in found)
    try:
        normalisation = Declared(mean, std).normalisation()
    except InputError as error:
        raise InputError(f"--weights {path}: its normalizer is none: {error}") from None
    network = {name.removeprefix(_OURS): value for name, value in tensors.items() if not name.startswith(_ASIDE)}
    return Weights(path, _without_prefixes(network), normalisation)


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`, by torch's restricted reader, which builds tensors and nothing else."""
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _SAFE_SINCE:
        needed = ".".join(map(str, _SAFE_SINCE))
        raise InputError(
            f"--weights {path}: torch {torch.__version__} reads foreign files unsafely; install torch >= {needed}"
        )
    with path.open("rb") as file:
        old = file.read(len(_BEFORE_ZIP)) == _BEFORE_ZIP
    if not old:
        _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader fails in as many ways as there are malformed files
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it wants to call {named[1]}; save the state_dict() of a model instead"
            if named
            else "it is corrupt or holds more than tensors"
        )
        raise InputError(f"--weights {path} was refused and nothing of it was executed: {reason}") from None
    return _state_dict(content, path)


def check_no_program(path: Path) -> None:
    """Refuse a file that holds a program, and say why.

    TorchScript can read and write files as it runs; to load an exported program, torch evaluates text in it and
    unpickles. Neither can be prevented here.

    Raises:
        InputError: if it is such a file.
    """
    names = [entry.filename for entry in _entries(path) or []]
    kind = _EXPORTED if any(name.endswith(_PROGRAM_FILES) for name in names) else _SCRIPT
    if kind is _EXPORTED or any("/code/" in name for name in names):
        raise InputError(f"{path} holds a program, and nothing of it was run: {kind}; {_WAY_OUT}")


def _entries(path: Path) -> list[zipfile.ZipInfo] | None:
    """What a zip archive holds; None if the file is none."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is a damaged zip archive: {error}") from None


def _check_archive(path: Path) -> None:
    """Refuse what `torch.save` does not write: programs, compressed entries (bombs), entries of one name."""
    entries = _entries(path)
    if entries is None:
        raise InputError(f"--weights {path} is not a file that torch.save wrote (a zip archive), or it is truncated")
    check_no_program(path)
    names = [entry.filename for entry in entries]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or len(set(names)) < len(names):
        raise InputError(f"--weights {path} is a zip archive, but not one that torch.save wrote")
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        raise InputError(f"--weights {path} holds no state dict")


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file held."""
    if not isinstance(content, Mapping):
        raise InputError(f"--weights {path} holds a {type(content).__name__}; a state dict is wanted")
    for name in _NESTED:
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    strange = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange or not content:
        wanted = f"wanted are named tensors, alone or under one of {', '.join(_NESTED)}"
        raise InputError(f"--weights {path} holds no state dict: it has {strange[:3] or 'nothing'}; {wanted}")
    return dict(content)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, named without the prefixes that all names share."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
