"""A data set as one file that is memory-mapped, never read whole: a safetensors file that describes itself.

Tensors `x_train`, `x_test` (uint8 NCHW), `y_train`, `y_test` (int64); in the header's metadata, under `nofreelunch`, a
JSON object with the format version, name, classes, labels, mean, std, notes and digest. Images stream into the file: it
may be larger than the memory.
"""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nofreelunch.data import store
from nofreelunch.data.dataset import Dataset, Split, content_digest, raw_bytes, statistics_of, with_statistics
from nofreelunch.errors import InputError
from nofreelunch.files import replacing
from nofreelunch.names import PACKED

FORMAT = 1
Chunks: TypeAlias = Iterable[tuple[Tensor, Tensor]]  # images, uint8 (n, c, h, w), and labels, int64 (n,); n may vary

_DTYPES = {"x_train": "U8", "x_test": "U8", "y_train": "I64", "y_test": "I64"}
_ROUNDING = 1e-9  # relative, of mean and std: their last digits depend on the processor that sums
_HEADER_SPARE = 2**15  # bytes kept in the header for all but the names; notes are a few lines


@dataclass(frozen=True)
class Stream:
    """A data set whose images come a few at a time, each split once.

    Attributes:
        train: may be empty.
        notes: as in `Dataset`; reading the splits may add to them.
    """

    name: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    train: Chunks
    test: Chunks
    notes: list[str] = field(default_factory=list)


def stream(data: Dataset) -> Stream:
    """A data set in memory, a thousand images at a time."""
    train, test = _thousands(data.train), _thousands(data.test)
    return Stream(data.name, data.classes, data.train.labels, train, test, list(data.notes))


def write_packed(path: Path, source: Stream) -> None:
    """Write a packed file; its mean, std and digest are computed from what was written.

    Raises:
        InputError: if there are no test images, or images differ in shape.
        OSError: if the file cannot be written; then nothing of it is left.
    """
    room = _header_room(source)
    with replacing(path) as file:
        file.seek(room)
        found, test = (_append(file, part, source.labels) for part in (source.train, source.test))
        if test is None:
            raise InputError("a packed file needs at least one image to test on, got none")
        train = Split(test.x[:0], test.y[:0], test.labels) if found is None else found
        for split in (train, test):
            file.write(raw_bytes(split.y))
        data = with_statistics(source.name, source.classes, train, test, tuple(source.notes))
        header = _header(data)
        assert 8 + len(header) <= room
        file.seek(0)
        file.write((room - 8).to_bytes(8, "little") + header.ljust(room - 8))
    store.note_verified(path, data.digest)


def read_packed(path: Path) -> Dataset:
    """The data set in a packed file, memory-mapped copy-on-write: the file never changes.

    Raises:
        InputError: if the file is missing, is no packed file, is truncated, or does not have the digest it states.
    """
    try:
        with safe_open(path, framework="np") as file:  # checks that the arrays of the header fill the file exactly
            about = _about(file)
        with path.open("rb") as content:
            x_train, x_test, y_train, y_test = _arrays(content)
        labels = about.pop("labels")
        data = Dataset(train=Split(x_train, y_train, labels), test=Split(x_test, y_test, labels), **about)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not a packed data set, or is truncated: {error}") from None
    _verify(path, data)
    return data


def cache_path(name: str, digest: str) -> Path:
    """Where the cache keeps the data set of this digest."""
    return store.cache_folder() / f"{name}-{digest[:16]}{PACKED}"


def through_cache(name: str, digest: str, build: Callable[[], Dataset]) -> Dataset:
    """The data set of this digest from the cache, memory-mapped; built and put there the first time.

    Where nothing can be written it is built in memory. A damaged file in the cache is made anew.
    """
    path = cache_path(name, digest)

    def fits(data: Dataset) -> bool:
        return data.digest == digest

    if (data := kept(path, fits)) is not None:
        return data
    with ExitStack() as held:
        with suppress(OSError):  # no cache can be: each process builds its own
            held.enter_context(store.exclusive(path))  # of many processes one builds
        return kept(path, fits) or _built(path, build())


def kept(path: Path, fits: Callable[[Dataset], bool]) -> Dataset | None:
    """The data set in a file of the cache, if it is there, whole, and fits."""
    with suppress(InputError):
        data = read_packed(path)
        if fits(data):
            return data
    return None


def _built(path: Path, data: Dataset) -> Dataset:
    """The data set, mapped from the file that is made of it, where one can be."""
    try:
        write_packed(path, stream(data))
    except OSError:
        return data
    return read_packed(path)


def _thousands(split: Split) -> Chunks:
    return ((split.x[start : start + 1000], split.y[start : start + 1000]) for start in range(0, len(split), 1000))


def _append(file: BinaryIO, part: Chunks, labels: tuple[int, ...]) -> Split | None:
    """Append the images of `part`; the split, with its images mapped from the file, or None if there are none."""
    start = file.tell()
    seen: list[Tensor] = []
    shapes: set[tuple[int, ...]] = set()
    for x, y in part:
        shapes.add(tuple(x.shape[1:]))
        if len(shapes) > 1:
            raise InputError(f"the images of a packed file must have one shape, got {' and '.join(map(str, shapes))}")
        file.write(raw_bytes(x))
        seen.append(y)
    if not seen:
        return None
    file.flush()
    y = torch.cat(seen)
    return Split(store.mapped(file)[start:].view(len(y), *shapes.pop()), y, labels)


def _header_room(source: Stream) -> int:
    """Bytes kept for the header, which is written last: a multiple of 64; names are quoted twice."""
    size = 2 * len(json.dumps([source.name, source.classes, source.labels])) + _HEADER_SPARE
    return -(-size // 64) * 64


def _header(data: Dataset) -> bytes:
    """The safetensors header of a packed file."""
    splits = {"train": data.train, "test": data.test}
    arrays = {f"x_{part}": split.x for part, split in splits.items()}
    arrays |= {f"y_{part}": split.y for part, split in splits.items()}
    about = {
        "format": FORMAT,
        "name": data.name,
        "classes": data.classes,
        "labels": data.train.labels,
        "mean": data.mean,
        "std": data.std,
        "notes": data.notes,
        "digest": data.digest,
    }
    header: dict[str, Any] = {"__metadata__": {"nofreelunch": json.dumps(about)}}
    start = 0
    for name, array in arrays.items():
        stop = start + array.nbytes
        header[name] = {"dtype": _DTYPES[name], "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    return json.dumps(header).encode()


def _arrays(file: BinaryIO) -> list[Tensor]:
    """The four arrays of a packed file in the order of `_DTYPES`: images mapped, labels read."""
    room = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(room))
    content = store.mapped(file)[8 + room :]
    arrays = {name: content[slice(*header[name]["data_offsets"])] for name in _DTYPES}
    labels = {name: array.clone().view(torch.int64) for name, array in arrays.items() if _DTYPES[name] == "I64"}
    return [array.view(header[name]["shape"]) for name, array in (arrays | labels).items()]


def _about(file: Any) -> dict[str, Any]:
    """What an open packed file says about itself, in the types of `Dataset`.

    Raises:
        ValueError: if that is not what `_header` writes.
    """
    found = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    if found != _DTYPES:
        raise ValueError(f"its arrays are {found}, not {_DTYPES}")
    about = json.loads((file.metadata() or {}).get("nofreelunch", "{}"))
    if about.get("format") != FORMAT:
        raise ValueError(f"its format is {about.get('format')}, this version reads {FORMAT}")
    return {
        "name": str(about["name"]),
        "classes": tuple(map(str, about["classes"])),
        "labels": tuple(map(int, about["labels"])),
        "mean": tuple(map(float, about["mean"])),
        "std": tuple(map(float, about["std"])),
        "notes": tuple(map(str, about["notes"])),
        "known_digest": str(about["digest"]),
    }


def _verify(path: Path, data: Dataset) -> None:
    """Check the content against the digest it states, once for each state of the file."""
    if store.is_verified(path, data.digest):
        return
    found = content_digest(data.train, data.test)
    if found != data.digest:
        raise InputError(f"{path} is damaged: its digest is {found}, it should be {data.digest}; pack it again")
    mean, std = statistics_of(data.train, data.test)
    stated = zip(mean + std, data.mean + data.std, strict=True)
    if not all(math.isclose(*pair, rel_tol=_ROUNDING) for pair in stated):
        raise InputError(f"{path} is damaged: mean and std of its images are {mean} and {std}; pack it again")
    store.note_verified(path, data.digest)
