"""A model on disk: NAME.safetensors holds its tensors, NAME.json says what it is. Neither can execute anything.

The JSON is written last. It holds the SHA-256 of the tensors' file and its own: a flipped bit in either is found.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nofreelunch.errors import SEEDS, InputError
from nofreelunch.files import read_bytes
from nofreelunch.models.classifier import Card, Classifier
from nofreelunch.models.registry import assemble
from nofreelunch.models.tensors import check_fits, pair, read_tensors, write_pair
from nofreelunch.names import is_own_code
from nofreelunch.workspace import digest, is_sealed, plain, read_json

FORMAT = 1
_LARGEST_SIDE, _MOST_CHANNELS, _MOST_CLASSES = 2**14, 2**10, 2**20
_KINDS = {"architecture": str, "shape": list, "classes": int, "normalisation": dict, "data": str, "threat": str}
_KINDS |= {"recipe": dict, "seed": int, "metrics": dict, "weights_sha256": str}


def save_model(model: nn.Module, path: Path | str, *, half: bool = False) -> None:
    """Write a model; whatever was there stays whole until the new files are.

    Args:
        model: what `build`, `train` or `load_model` returned.
        path: ends in ".safetensors"; the JSON goes beside it.
        half: store float32 as float16, half the size; `load_model` gives float32 again.

    Raises:
        InputError: if this is no model of ours, the path has another ending, or a weight is too large for float16.
        RunError: if the files cannot be written.
    """
    path = Path(path)
    if not isinstance(model, Classifier):
        raise InputError(
            f"only a Classifier can be saved, got {type(model).__name__}; build(...) and train(...) make one"
        )
    if path.suffix != ".safetensors":
        raise InputError(f"a model's path must end in .safetensors, got {path}")
    tensors = model.state_dict()
    if half:
        tensors = {name: value.half() if value.dtype == torch.float32 else value for name, value in tensors.items()}
        infinite = [name for name, value in tensors.items() if value.dtype == torch.float16 and value.isinf().any()]
        if infinite:
            raise InputError(f"{infinite[0]} has values too large for half precision; save with half=False")
    write_pair(path, *pair(tensors, {"format": FORMAT, **_to_json_types(model.card)}, "weights_sha256"))


def load_file(path: Path, own_code: str = "") -> Classifier:
    """The model saved at a path, in float32 and evaluation mode.

    Args:
        path: of the tensors; the JSON lies beside it.
        own_code: the architecture of the user's that may be run, "python:MODULE:FACTORY", where the JSON names it.

    Raises:
        InputError: if either file is missing, truncated, changed, from a newer version, or does not fit the other; or
            names code that is not to be run.
    """
    about = _read_about(path.with_suffix(".json"))
    card = _card(about, path.with_suffix(".json"))
    own = is_own_code(card.arch)
    if own and card.arch != own_code:
        raise InputError(
            f"{path} is of {card.arch}, and no file makes code run: give {card.arch} with --weights {path}"
        )
    with torch.device("cpu" if own else "meta"):
        model = assemble(card)
    content = read_bytes(path, _bytes_of(model), "the model that its JSON describes")
    tensors = read_tensors(content, path)
    check_fits(tensors, model, path, halved=True)
    if digest(content) != about["weights_sha256"]:
        raise InputError(
            f"{path} is corrupt or belongs to another model: digest mismatch with {path.with_suffix('.json')}"
        )
    floats = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    model.load_state_dict(floats, assign=True)
    return model.eval()


def read_card(path: Path) -> Card:
    """What the model saved at a path is; its weights are not read.

    Raises:
        InputError: if its JSON is missing, truncated, changed or from a newer version.
    """
    return _card(_read_about(path.with_suffix(".json")), path.with_suffix(".json"))


def _to_json_types(card: Card) -> dict[str, Any]:
    values = plain(card)
    normalisation = {"mean": values.pop("mean"), "std": values.pop("std")}
    return {"architecture": values.pop("arch"), "normalisation": normalisation, **values}


def _read_about(path: Path) -> dict[str, Any]:
    """The content of a model's JSON, if nobody has changed it and this version can read it."""
    about = read_json(path)
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise InputError(f"{path} does not describe a model")
    if about["format"] > FORMAT:
        raise InputError(
            f"{path} has format {about['format']}, this version reads up to {FORMAT}; install a newer nofreelunch"
        )
    if not is_sealed(path.read_bytes()):
        raise InputError(f"{path} was changed after it was written: digest mismatch; take it from where it came again")
    return about


def _card(about: dict[str, Any], path: Path) -> Card:
    """The card in a model's JSON; types and sizes are checked before a model is made of them."""
    wrong = [name for name, kind in _KINDS.items() if type(about.get(name)) is not kind]
    if wrong:
        raise InputError(f"{path} does not describe a model: {wrong[0]} is missing or of the wrong type")
    shape, classes, normalisation = about["shape"], about["classes"], about["normalisation"]
    sides = [type(side) for side in shape] == [int] * 3 and min(shape) > 0 and max(shape) <= _LARGEST_SIDE
    if not sides or shape[0] > _MOST_CHANNELS:
        raise InputError(f"{path} does not describe a model: no image has shape {shape}")
    if not 2 <= classes <= _MOST_CLASSES:
        raise InputError(f"{path} does not describe a model: it cannot have {classes} classes")
    if not 0 <= about["seed"] < SEEDS:
        raise InputError(f"{path} does not describe a model: its seed cannot be {about['seed']}")
    try:
        mean, std = (tuple(map(float, normalisation[name])) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path} does not describe a model: normalisation must hold lists mean and std") from None
    others = {name: about[name] for name in ("data", "threat", "recipe", "seed", "metrics")}
    return Card(about["architecture"], (shape[0], shape[1], shape[2]), classes, mean, std, **others)


def _bytes_of(model: Classifier) -> int:
    """An upper bound of the size of the model's file, header included."""
    return sum(value.nbytes + 1024 for value in model.state_dict().values())
