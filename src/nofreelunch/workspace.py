"""Where results are kept: whole files or none, never a pickle.

A `Workspace` says where; it changes no number. A record is a frozen dataclass of numbers, strings, tuples, dicts and
arrays; its arrays go to `NAME.npz`, all else to `NAME.json`, which is written last and names the arrays' SHA-256.
"""

import dataclasses
import hashlib
import io
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nofreelunch.errors import ADDRESS, InputError
from nofreelunch.files import atomic_write, read_bytes

Record = TypeVar("Record")

FORMAT = 1
_SIZE_CAP = 64 * 2**20  # no JSON of ours comes near; a larger file is not ours


def without_addresses(value: object) -> str:
    """The value in words, functions and objects in it by their names alone: the same in every process."""
    return ADDRESS.sub("", repr(value))


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def to_json(value: object) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, floats that read back equal.

    Raises:
        ValueError: for NaN and infinities: a failed measurement is not a number.
    """
    text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # JSON's own escapes: bytes of file names that are no letters


def plain(value: Any) -> Any:
    """`value` in JSON's types: dataclasses to dicts, tuples to lists, numpy numbers to Python's.

    What has a method `to_plain` says itself what it is in these types.
    """
    if hasattr(value, "to_plain") and not isinstance(value, type):
        return plain(value.to_plain())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return value


def read_json(path: Path) -> Any:
    """The content of a JSON file of ours.

    Raises:
        InputError: if it is missing, too large or not JSON.
    """
    content = read_bytes(path, _SIZE_CAP, "a file of ours")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is truncated or not JSON; delete it and run again") from None


def sealed(about: Mapping[str, Any]) -> bytes:
    """JSON that holds its own digest, under "sha256"."""
    return to_json({**about, "sha256": digest(to_json(about))})


def is_sealed(content: bytes) -> bool:
    """Whether this is, byte for byte, what `sealed` makes of what it says."""
    try:
        about = json.loads(content)
        return content == sealed({key: value for key, value in about.items() if key != "sha256"})
    except (ValueError, RecursionError, AttributeError):  # no JSON, or infinities, or no dictionary
        return False


def versions() -> dict[str, str]:
    """What the numbers depend on besides the config: this package, its numeric libraries, the machine."""
    known = {name: metadata.version(name) for name in ("nofreelunch", "torch", "numpy", "scipy")}
    return {**known, "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}


@dataclass(frozen=True)
class Workspace:
    """A folder that keeps records, figures and models.

    Args:
        root: the folder; made when first written to.
        device: where models run: "cpu", "cuda", "cuda:1".
        data_root: where data sets that are not in the package lie, or None.
    """

    root: Path
    device: str = "cpu"
    data_root: Path | None = None

    def save(self, name: str, record: object, **about: object) -> None:
        """Keep a frozen dataclass under `results/NAME`; `about` goes beside it (config, seed, versions, wall time)."""
        assert dataclasses.is_dataclass(record)
        values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        arrays = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
        packed = npz(arrays, compressed=True)
        if arrays:
            atomic_write(self._file(name, ".npz"), packed)
        content = {
            "format": FORMAT,
            **about,
            "arrays": {"names": sorted(arrays), "sha256": digest(packed)} if arrays else None,
            "values": {key: value for key, value in values.items() if key not in arrays},
        }
        atomic_write(self._file(name, ".json"), to_json(content))

    def load(self, name: str, record_type: type[Record]) -> tuple[Record, dict[str, Any]]:
        """A kept record, and what was said about it.

        Raises:
            InputError: if it is missing, damaged, or not of this type.
        """
        about = self.about(name)
        values = {key: _tuples(value) for key, value in about.pop("values").items()}
        if about["arrays"]:
            content = self._file(name, ".npz").read_bytes() if self._file(name, ".npz").exists() else b""
            if digest(content) != about["arrays"].get("sha256"):
                raise InputError(f"{self._file(name, '.npz')} is missing or damaged; delete it and run again")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                values |= {key: arrays[key] for key in arrays.files}
        names = {field.name for field in dataclasses.fields(record_type)}  # type: ignore[arg-type]
        if set(values) != names:
            raise InputError(f"{self._file(name, '.json')} holds another kind of result; delete it and run again")
        return record_type(**values), about

    def about(self, name: str) -> dict[str, Any]:
        """The JSON of a kept record, its values included.

        Raises:
            InputError: if it is missing or damaged.
        """
        content: dict[str, Any] = read_json(self._file(name, ".json"))
        if not _is_result(content):
            raise InputError(f"{self._file(name, '.json')} is not a result of this version; delete it and run again")
        return content

    def _file(self, name: str, suffix: str) -> Path:
        return self.root / "results" / f"{name}{suffix}"


def _is_result(content: object) -> bool:
    """Whether it has the parts of what `save` writes."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    return isinstance(content.get("values"), dict) and isinstance(content.get("arrays", ""), (dict, type(None)))


def npz(arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    """The arrays as an npz file whose bytes depend on nothing else."""
    buffer, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
    save(buffer, allow_pickle=False, **dict(sorted(arrays.items())))
    return buffer.getvalue()


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, none of them a pickle.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: if the file cannot be read, or is none.
    """
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        return dict(file)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples: records are immutable."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def find_device(name: str) -> str:
    """The device that `name` ("auto", "cpu", "cuda", "cuda:1") asks for; "auto" is a GPU where there is one.

    Raises:
        InputError: if it does not exist here; there is no silent fall-back.
    """
    if name == "cpu":
        return name
    import torch

    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return "cuda" if len(there) > 1 else "cpu"
    if name in there or (name == "cuda" and len(there) > 1):
        return name
    raise InputError(f'device "{name}" is not on this machine; there are: auto, {", ".join(there)}')
