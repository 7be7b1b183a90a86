"""The worst points found, as a file that proves the figures to anybody who has the model and the data.

It holds `x_adv` (radii, n, ...) in float32, `eps` (radii,), and for each example its class `y` and its place `index`
among the images of the data set. It is no pickle, and executes nothing.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from nofreelunch.attacks import margin, misclassified
from nofreelunch.data import Split
from nofreelunch.errors import InputError, RunError
from nofreelunch.evaluation.result import Evaluation
from nofreelunch.evaluation.subject import Subject
from nofreelunch.evaluation.sweep import Sweep
from nofreelunch.files import atomic_write
from nofreelunch.types import Labels, Mask, Model
from nofreelunch.workspace import npz, npz_arrays

_SUFFIXES = (".npz", ".safetensors")
_BATCH = 100
_TIE = 1e-4
"""Of the spread of the logits: margins below this may change their sign with the rounding of another batch."""


def check_name(path: Path) -> None:
    """An `InputError` if the file's ending is not that of a format in which examples are kept."""
    if path.suffix not in _SUFFIXES:
        raise InputError(f"a file of examples must end in {' or '.join(_SUFFIXES)}, got {path}")


def save_examples(path: Path, found: Sweep, y: Labels, index: Labels) -> None:
    """Write the worst points of evaluations that kept them.

    Args:
        path: ends in .npz or .safetensors.
        found: the evaluations.
        y: classes of the examples.
        index: their places in the data set.
    """
    check_name(path)
    kept = [ev.x_adv for ev in found.evaluations if ev.x_adv is not None]
    assert len(kept) == len(found.evaluations), "evaluate with keep_examples=True"
    arrays = {
        "x_adv": np.stack([x.numpy() for x in kept]),
        "eps": np.array([ev.threat.eps for ev in found.evaluations]),
        "y": y.numpy(),
        "index": index.numpy(),
    }
    if path.suffix == ".npz":
        atomic_write(path, npz(arrays))
    else:
        atomic_write(path, save(arrays))


def check_examples(path: Path, model: Model, data: Split, found: Sweep) -> tuple[int, ...]:
    """Read the file back and judge its points by the model.

    Args:
        path: what `save_examples` wrote.
        model: a fresh copy; it is copied again for each batch, so that it remembers nothing.
        data: the examples.
        found: what the file is to prove.

    Returns:
        For each radius, how many of the points the model is wrong about.

    Raises:
        RunError: if a point is outside ball or box, or the model's verdict on one is not the one that was counted.
    """
    try:
        arrays = npz_arrays(path) if path.suffix == ".npz" else load(path.read_bytes())
        points = torch.from_numpy(arrays["x_adv"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise RunError(f"{path} cannot be read back ({error}); nothing was counted") from error
    return tuple(_check(path, model, data, *pair) for pair in zip(points, found.evaluations, strict=True))


def _check(path: Path, model: Model, data: Split, points: Tensor, ev: Evaluation) -> int:
    """How many points of one radius the model is wrong about."""
    subject = Subject(model)
    subject.stateful = True
    illegal, other, wrong = 0, 0, 0
    random = any(flag.name == "randomised" for flag in ev.flags)
    lost = torch.tensor([step != "" for step in ev.broken_by])
    for index in torch.split(torch.arange(len(data)), _BATCH):
        x, z = data.images(index), points[index]
        illegal += int((~(z.flatten(1).isfinite().all(1) & ev.threat.contains(z.nan_to_num(), x))).sum())
        seen, sure = _verdicts(subject, z, data.targets[index])
        other += int(((seen != lost[index]) & sure).sum()) if not random else 0
        wrong += int(seen.sum())
    if illegal:
        raise RunError(f"{illegal} of {len(data)} examples in {path} are outside ball or box; nothing was counted")
    if other:
        raise RunError(
            f"a fresh copy of the model judges {other} of {len(data)} examples in {path} otherwise; "
            "a model must be the same whenever it is made"
        )
    return wrong


def _verdicts(subject: Subject, z: Tensor, y: Labels) -> tuple[Mask, Mask]:
    """Whether each point is misclassified, and whether that is more than a matter of rounding."""
    pair = z.repeat(2, *[1] * (z.dim() - 1)) if len(z) == 1 else z  # a batch of one takes other kernels
    logits = subject.logits(pair.to(subject.device)).cpu()[: len(z)]
    near = margin(logits, y).abs() <= _TIE * (logits.amax(1) - logits.amin(1))
    return misclassified(logits, y), ~near
