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

from safetensors import torch as safetensors
from torch import Tensor

from nofreelunch.errors import InputError
from nofreelunch.files import atomic_write, sync_folder
from nofreelunch.workspace import digest, is_sealed, sealed

FORMAT = 1
_CURRENT, _PREVIOUS = "state", "previous"
_SUFFIXES = ("safetensors", "json")


@dataclass(frozen=True)
class State:
    """What a run goes on from.

    Args:
        about: step, config, history and so on, in JSON's types.
        tensors: by name.
    """

    about: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class _Pair:
    """The bytes of two files whose digests hold."""

    tensors: bytes
    about: bytes


class _Damaged(Exception):
    """The pair is not whole; the message says why."""


def save_state(folder: Path, state: State) -> None:
    """Keep the state, and the one before it.

    Raises:
        RunError: if the disk is full or the folder cannot be written; an earlier state is still whole.
    """
    tensors = safetensors.save({name: value.detach().cpu().contiguous() for name, value in state.tensors.items()})
    about = {**state.about, "format": FORMAT, "tensors": digest(tensors)}
    try:
        before = _read(folder, _CURRENT)
    except _Damaged:
        before = None  # `previous.*` is whole then, and stays
    if before:
        _keep(folder, before)
    _write(folder, _CURRENT, _Pair(tensors, sealed(about)))


def load_state(folder: Path) -> tuple[State | None, tuple[str, ...]]:
    """The last state that is whole, None if there is none; and a sentence on each that is not.

    Raises:
        InputError: if the state was written by another version of the format.
    """
    complaints: list[str] = []
    for name in (_CURRENT, _PREVIOUS):
        try:
            pair = _read(folder, name)
        except _Damaged as error:
            complaints.append(str(error))
            continue
        if pair:
            about = json.loads(pair.about)
            if about["format"] != FORMAT:
                versions = f"has format {about['format']}, this version reads {FORMAT}"
                raise InputError(f"{folder / name}.json {versions}; give another --out")
            return State(about, safetensors.load(pair.tensors)), tuple(complaints)
    return None, tuple(complaints)


def _keep(folder: Path, pair: _Pair) -> None:
    """Give the current pair, which is whole, the names of the previous one as well."""
    try:
        for suffix in _SUFFIXES:
            _link(folder / f"{_CURRENT}.{suffix}", folder / f"{_PREVIOUS}.{suffix}")
        sync_folder(folder)
    except OSError:  # some disks know no second name of a file
        _write(folder, _PREVIOUS, pair)


def _link(file: Path, name: Path) -> None:
    """Make `name` a second name of the file, in one stroke."""
    temporary = name.with_name(f".{name.name}.link")
    temporary.unlink(missing_ok=True)  # of a killed process
    os.link(file, temporary)
    os.replace(temporary, name)
    temporary.unlink(missing_ok=True)  # `replace` does nothing where `name` is one already


def _write(folder: Path, name: str, pair: _Pair) -> None:
    atomic_write(folder / f"{name}.safetensors", pair.tensors)
    atomic_write(folder / f"{name}.json", pair.about)


def _read(folder: Path, name: str) -> _Pair | None:
    """The pair of this name; None if its second file was never written.

    Raises:
        _Damaged: if a digest does not hold, or the first file is missing.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _Damaged(f"{path} cannot be read: {error.strerror}") from None
    if not is_sealed(content):
        raise _Damaged(f"{path} is damaged: its digest does not hold")
    about, path = json.loads(content), path.with_suffix(".safetensors")
    try:
        tensors = path.read_bytes()
    except OSError as error:
        raise _Damaged(f"{path} cannot be read: {error.strerror}") from None
    if digest(tensors) != about["tensors"]:
        raise _Damaged(f"{path} is damaged, or its writing was interrupted: its digest does not hold")
    return _Pair(tensors, content)
