"""The examples of an evaluation: which they are, and how they are read, a batch at a time wherever they lie."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nofreelunch.attacks.door import check_batch, check_dense
from nofreelunch.data import Dataset, Split
from nofreelunch.errors import InputError, brief
from nofreelunch.threats import Threat, check_box_of_images, check_threat
from nofreelunch.types import Inputs, Labels, pixels

LEVELS = 255
"""Steps of a pixel in image files, from black to white."""
_CHUNK = 2**24
"""So many numbers are looked at in one go: the data may be larger than memory."""


@dataclass(frozen=True, eq=False)
class Source:
    """Images and class indices, checked.

    Attributes:
        x: float images, or the raw ones of a `Split`; may lie in a mapped file.
        y: class indices.
        keys: a number for each example, a hash of its content: its random stream belongs to it and not to its place.
        digest: SHA-256 of all examples.
        notes: what was converted.
    """

    x: Tensor | Split = field(repr=False)
    y: Labels = field(repr=False)
    keys: Labels = field(repr=False)
    digest: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)

    def images(self, index: Tensor) -> Inputs:
        """Float32 inputs, in new memory."""
        return _images(self.x, index)

    def gridded(self, threat: Threat) -> bool:
        """Whether every pixel of the first images is one of 256 levels of the box, as in image files."""
        images = self.images(torch.arange(min(64, len(self)))).double()
        return bool(((images - snapped(images, threat)).abs() < 1e-6 * threat.width).all())


def snapped(z: Inputs, threat: Threat) -> Inputs:
    """The nearest images that a file can hold: every pixel is one of 256 levels of the box (or a 255th)."""
    low = 0.0 if threat.box is None else threat.box[0]
    return low + ((z - low) / threat.width * LEVELS).round() / LEVELS * threat.width


def source_of(data: Split | tuple[Tensor, Tensor], model: object, threat: Threat) -> Source:
    """The examples, if they can be evaluated.

    Args:
        data: a split, or a pair (x, y): float inputs in the threat's box, or uint8 images; integer class indices.
        model: for the message that says what is wrong with it.
        threat: its box is the inputs' range.

    Raises:
        InputError: if there are no examples, or they are not what they should be; says which and why.
    """
    check_threat(threat)
    if isinstance(data, Split):
        check_box_of_images(threat)
        return _described(data, data.targets, ())
    if not isinstance(data, (tuple, list)) or [isinstance(part, Tensor) for part in data] != [True, True]:
        got, way = brief(data), "torch.as_tensor makes tensors of arrays"
        if isinstance(data, (tuple, list)):
            got = f"({', '.join(type(part).__name__ for part in data)})"
        elif isinstance(data, Tensor):
            got, way = f"a tensor of shape {tuple(data.shape)}", "give the labels too: (x, y)"
        elif isinstance(data, DataLoader):
            way = "join its batches: tuple(map(torch.cat, zip(*loader)))"
        elif isinstance(data, (str, Dataset)):
            way = "its .test is one" if isinstance(data, Dataset) else f"load_data({data!r}).test is one"
        raise InputError(f"data must be a Split or a pair (x, y) of tensors, got {got}; {way}")
    x, y = data
    check_dense(x=x, y=y)
    if x.dtype == torch.uint8:
        check_box_of_images(threat)
    if x.dim() == 0 or x.numel() == 0:
        raise InputError("there is nothing to evaluate: x holds no examples")
    notes = []
    step = _step(x)
    for start in range(0, len(x), step):
        part = (
            _images(x, torch.arange(start, min(len(x), start + step)))
            if x.dtype == torch.uint8
            else x[start : start + step]
        )
        if part.is_floating_point() and not part.isfinite().all():
            bad = start + int((~part.isfinite().flatten(1).all(1)).int().argmax())
            raise InputError(f"x must be finite; example {bad} holds NaN or infinity")
        check_batch(model, part, y[start : start + step] if len(y) == len(x) else y, threat.box)
    if x.dtype != torch.float32:
        notes.append(f"x came as {str(x.dtype).removeprefix('torch.')} and was converted to float32"
                     + (" by dividing by 255" if x.dtype == torch.uint8 else ""))  # fmt: skip
    return _described(x, y.long(), tuple(notes))


def _described(x: Tensor | Split, y: Labels, notes: tuple[str, ...]) -> Source:
    """Content hashes of all examples, in one pass over them; an `InputError` if there are none."""
    if not len(y):
        raise InputError("there is nothing to evaluate: the split holds no images")
    sha, keys, array = hashlib.sha256(), [], x.x if isinstance(x, Split) else x
    for index in torch.split(torch.arange(len(y)), _step(array)):
        for image in _images(x, index).cpu().numpy():
            key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
            sha.update(key)
            keys.append(int.from_bytes(key, "little", signed=True))
    sha.update(f"{tuple(array.shape)}".encode() + y.cpu().numpy().tobytes())
    return Source(x, y.cpu(), torch.tensor(keys), sha.hexdigest(), notes)


def _images(x: Tensor | Split, index: Tensor) -> Inputs:
    if isinstance(x, Split):
        return x.images(index)
    taken = x.detach()[index.to(x.device)]
    return pixels(taken) if taken.dtype == torch.uint8 else taken.float()


def _step(x: Tensor) -> int:
    return max(1, _CHUNK // max(1, x[0].numel()))


def batches(index: Tensor, size: int) -> Iterator[Tensor]:
    """The indices, `size` at a time; a last batch of one is doubled, because a batch of one takes other kernels."""
    for part in torch.split(index, size) if len(index) else ():
        yield part if len(part) > 1 else part.repeat(2)
