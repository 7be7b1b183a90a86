"""The user's own arrays: an npz file with `x_train`, `y_train`, `x_test`, `y_test`, or with test images only.

These are `x_test` and `y_test`, or `x` and `y`. Images are uint8, (n, h, w, c) or (n, h, w); floats are taken if each
is k / 255 (to the precision of float32), since nothing is lost then. Labels are the integers 0 .. K-1; an array
`classes` may name all K. What the headers claim is checked before anything is allocated.
"""

import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nofreelunch.data.dataset import Dataset, Split, with_statistics
from nofreelunch.errors import InputError, brief

_CLASSES = "classes"
_CHANNELS_AT_MOST = 4
_LABEL_AT_MOST = 99_999  # of test images alone, whose largest label says how many classes there are
_DEFLATE_AT_MOST = 1032  # no deflated byte can stand for more
_LEVEL_ERROR = 1e-3  # of a grey level


def load_npz(path: Path) -> Dataset:
    """The data set in an npz file; its classes are named "0", "1", ... unless the file names them.

    Raises:
        InputError: if the file cannot be read, an array is missing or has another type, shape or range than it should.
    """
    try:
        arrays = _read(path)
        ends = _ends(arrays)
        classes = _classes(ends[0], arrays)
        labels = tuple(range(len(classes)))
        *train, test = (_split(end, arrays, labels) for end in ends)
        nothing = Split(test.x[:0], test.y[:0], labels)
        return with_statistics(path.stem, classes, train[0] if train else nothing, test)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays that are used, in any type that `_check` lets pass."""
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise InputError("is no npz file but one array (.npy); np.savez(FILE, x=x, y=y) keeps two")
        with zipfile.ZipFile(path) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            names = _names(there)
            for name in names:
                _check(name, *_header(archive, name))
            return {name: _array(archive, name) for name in names}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise InputError(
            "is larger than the memory; put the images into folders and use `nofreelunch data pack`"
        ) from None
    except Exception as error:  # on damaged bytes the zip and npy readers may raise anything
        raise InputError(f"is no npz file, or is damaged: {error}") from None


def _names(there: Collection[str]) -> list[str]:
    """The arrays that are wanted of those in the file."""
    names = [f"{kind}{end}" for end in _ends(there) for kind in "xy"]
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"array {missing[0]} is missing; x_test and y_test are needed, and to train x_train and y_train; "
            f"the file has {brief(', '.join(there)) if there else 'none'}"
        )
    return [*names, *({_CLASSES} & set(there))]


def _ends(there: Collection[str]) -> tuple[str, ...]:
    """How the names of the arrays end: those of training images, if there are any, and those of test images."""
    if {"x_train", "y_train"} & set(there):
        return "_train", "_test"
    return ("",) if {"x", "y"} & set(there) and not {"x_test", "y_test"} & set(there) else ("_test",)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type that an array claims, if the file has as many bytes as they need."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        needed = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise InputError(f"{name} holds Python objects, which are never read; give an array of numbers")
    if min(shape, default=0) < 0 or info.file_size != needed or info.file_size > _DEFLATE_AT_MOST * info.compress_size:
        raise InputError(f"{name} claims shape {shape}, {needed} bytes; the file has not got them")
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Type and number of axes, for images, labels or names as the name says."""
    if name == _CLASSES:
        if len(shape) != 1 or dtype.kind not in "iuU":
            raise InputError(f"{name} must be a list of names, one for each class, got {dtype} {shape}")
        return
    if name.startswith("y"):
        if len(shape) == 2:
            hint = "ravel()" if shape[1] == 1 else "argmax(1)"
            raise InputError(f"{name} must be (n,), got {shape}; give {name}.{hint}")
        if len(shape) != 1 or dtype.kind not in "iu":
            way = f"{name}.astype(int)" if dtype.kind == "f" else f"np.unique({name}, return_inverse=True)[1]"
            raise InputError(f"{name} must be integers of shape (n,), got {dtype} {shape}; give {way}")
        return
    if dtype != np.uint8 and dtype.kind != "f":
        way = f"{name}.astype('uint8') * 255" if dtype.kind == "b" else f"{name}.astype('uint8'), if it holds 0 .. 255"
        raise InputError(f"{name} must be uint8, got {dtype}; give {way}")
    if len(shape) not in (3, 4):
        raise InputError(f"{name} must be (n, h, w, c) or (n, h, w), got {shape}")
    if shape[0] == 0:
        raise InputError(f"{name} must hold at least one image, got {shape}")
    if len(shape) == 4 and shape[3] > _CHANNELS_AT_MOST:
        raise InputError(f"{name} must have its channels last, got {shape}; give {name}.transpose(0, 2, 3, 1)")


def _classes(end: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """The names of all classes, by the labels of training images, or of test images where there are no others."""
    name, found = f"y{end}", np.unique(arrays[f"y{end}"]).tolist()
    given = tuple(map(str, arrays[_CLASSES].tolist())) if _CLASSES in arrays else None
    alone = end != "_train"
    if len(found) < 2 and not (alone and found and (given or found[0] > 0)):
        way = "; name all classes in an array classes" if alone else ""
        raise InputError(f"{name} must have two classes or more, got {found}{way}")
    gap = next((label for label, value in enumerate(found) if value != label), None)
    if found[0] < 0 or (gap is not None and not (alone and found[-1] <= _LABEL_AT_MOST)):
        raise InputError(f"{name} must be 0 .. K-1; {_of_labels(found)}")
    if not alone and given and len(given) != len(found):
        raise InputError(f"{_CLASSES} has {len(given)} names, {name} has {len(found)} labels; give one name per label")
    return given or tuple(map(str, range(found[-1] + 1)))


def _of_labels(found: list[int]) -> str:
    """What is odd about labels, and the way out."""
    gap = next((label for label, value in enumerate(found) if value != label), 0)
    shifted = found == list(range(found[0], found[0] + len(found)))
    way = f"y - {found[0]}" if shifted and found[0] > 0 else "np.unique(y, return_inverse=True)[1]"
    named = f"label {found[gap]} is there, label {gap} is not (they go from {found[0]} to {found[-1]})"
    return f"{named}; give {'(y + 1) // 2' if found == [-1, 1] else way}"


def _split(end: str, arrays: Mapping[str, NDArray[Any]], labels: tuple[int, ...]) -> Split:
    x, y = arrays[f"x{end}"], arrays[f"y{end}"]
    strange = sorted(set(np.unique(y).tolist()) - set(labels))
    if strange:
        of = _CLASSES if _CLASSES in arrays else "y_train"
        raise InputError(f"y{end} has label {strange[0]}; the labels of {of} are 0 .. {labels[-1]}")
    if len(x) != len(y):
        raise InputError(f"x{end} has {len(x)} images, y{end} has {len(y)} labels; give one label per image")
    levels = x if x.dtype == np.uint8 else _levels(f"x{end}", x)
    nhwc = levels[..., None] if levels.ndim == 3 else levels
    nchw = np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(nchw), torch.from_numpy(y.astype(np.int64)), labels)


def _levels(name: str, x: NDArray[Any]) -> NDArray[np.uint8]:
    """Float pixels as grey levels, if nothing is lost; a thousand images at a time."""
    levels = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), 1000):
        some = x[start : start + 1000].astype(np.float64)
        finite = np.isfinite(some).all(axis=tuple(range(1, x.ndim)))
        if not finite.all():
            raise InputError(f"{name}: image {start + int(finite.argmin())} has a pixel that is not finite")
        if some.size and (some.min() < 0 or some.max() > 1):
            raise InputError(f"{name} must be uint8, or floats in [0, 1]; got {_range(some)}")
        rounded = np.rint(some * 255)
        if some.size and np.abs(some * 255 - rounded).max() > _LEVEL_ERROR:
            raise InputError(f"{name} has floats that are not k/255; give ({name} * 255).round().astype('uint8')")
        levels[start : start + 1000] = rounded
    return levels


def _range(x: NDArray[np.float64]) -> str:
    hint = "undo the normalisation, models do that themselves" if x.min() < 0 else "give uint8, or divide by 255"
    return f"{x.min():g} to {x.max():g}: {hint}"
