"""The state of a run on disk: two pairs of files, of which one is whole at every moment.

`state.safetensors` holds the tensors; `state.json`, written after it, all else with the tensors' SHA-256 and its own.
Before a new pair takes their names, an intact pair is named `previous.*` too, in the same order. Wherever a kill or a
full disk stops this, `state.*` or `previous.*` is a pair whose digests hold.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from nofreelunch.errors import InputError
from nofreelunch.files import read_bytes, sync_folder
from nofreelunch.models.tensors import pair, write_pair
from nofreelunch.workspace import digest, is_sealed

FORMAT = 1
_CURRENT, _PREVIOUS = "state.safetensors", "previous.safetensors"


@dataclass(frozen=True)
class State:
    """What a run goes on from.

    Args:
        about: step, config, history and so on, in JSON's types.
    """

    about: dict[str, Any]
    tensors: dict[str, Tensor]


def save_state(folder: Path, state: State) -> None:
    """Keep the state, and the one before it.

    Raises:
        RunError: if the disk is full or the folder cannot be written; an earlier state is still whole.
    """
    after = pair(state.tensors, {**state.about, "format": FORMAT}, "tensors")
    try:
        before = _read(folder, _CURRENT)
    except InputError:
        before = None  # `previous.*` is whole then, and stays
    if before:
        _keep(folder, before)
    write_pair(folder / _CURRENT, *after)


def load_state(folder: Path) -> tuple[State | None, tuple[str, ...]]:
    """The last state that is whole, None if there is none; and a sentence on each that is not.

    Raises:
        InputError: if the state was written by another version of the format.
    """
    complaints: list[str] = []
    for name in (_CURRENT, _PREVIOUS):
        try:
            found = _read(folder, name)
        except InputError as error:
            complaints.append(str(error))
            continue
        if found:
            about = json.loads(found[1])
            if about["format"] != FORMAT:
                versions = f"has format {about['format']}, this version reads {FORMAT}"
                raise InputError(f"{(folder / name).with_suffix('.json')} {versions}; give another --out")
            return State(about, load(found[0])), tuple(complaints)
    return None, tuple(complaints)


def _keep(folder: Path, found: tuple[bytes, bytes]) -> None:
    """Give the current pair, which is whole, the names of the previous one as well."""
    try:
        for suffix in (".safetensors", ".json"):
            _link(*((folder / name).with_suffix(suffix) for name in (_CURRENT, _PREVIOUS)))
        sync_folder(folder)
    except OSError:  # some disks know no second name of a file
        write_pair(folder / _PREVIOUS, *found)


def _link(file: Path, name: Path) -> None:
    """Make `name` a second name of the file, in one stroke."""
    temporary = name.with_name(f".{name.name}.link")
    temporary.unlink(missing_ok=True)  # of a killed process
    os.link(file, temporary)
    os.replace(temporary, name)
    temporary.unlink(missing_ok=True)  # `replace` does nothing where `name` is one already


def _read(folder: Path, name: str) -> tuple[bytes, bytes] | None:
    """The bytes of the pair of this name, whose digests hold; None if its second file was never written.

    Raises:
        InputError: if a digest does not hold, or the first file is missing.
    """
    path = (folder / name).with_suffix(".json")
    if not path.exists():
        return None
    about = read_bytes(path)
    if not is_sealed(about):
        raise InputError(f"{path} is damaged: its digest does not hold")
    tensors = read_bytes(folder / name)
    if digest(tensors) != json.loads(about)["tensors"]:
        raise InputError(f"{folder / name} is damaged, or its writing was interrupted: its digest does not hold")
    return tensors, about
