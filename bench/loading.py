"""What images cost before a step can begin: decoding photographs, reading a packed file, augmenting."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import nofreelunch as nfl
from bench.timing import median, ratio, seconds
from nofreelunch.data import Dataset, data_root, images
from nofreelunch.data.imagenet import has_tree, list_restricted_imagenet
from nofreelunch.data.images import Fit
from nofreelunch.data.packed import read_packed
from nofreelunch.data.tree import Tree, pack_tree
from nofreelunch.rng import Streams
from nofreelunch.training.augment import AUGMENTS
from nofreelunch.training.events import Event, Step
from nofreelunch.types import pixels

CASES = {"resnet50": (224, 4), "preact-resnet18": (64, 16)}
"""Architecture -> side of its images in pixels, and images a step."""

COUNT, EPS, AUGMENT = 48, 0.005, "resized-crop-flip"
WAYS = {
    "decoding": "JPEG file, resized and cropped",
    "reading": "packed file, mapped, as float32",
    "augmenting": AUGMENT,
}


def measure(rounds: int) -> dict[str, Any]:
    """Images per second and shares of a step's time, by network; photographs of NOFREELUNCH_DATA, or made here."""
    with tempfile.TemporaryDirectory() as folder:
        root = data_root()
        own = not has_tree(root)
        found = _made(Path(folder)) if own else [path for path, _ in list_restricted_imagenet(root, "paper").test]
        files = tuple((path, number % 2) for number, path in enumerate(found[:COUNT]))
        cases = {arch: _measure(arch, files, Path(folder), rounds) for arch in CASES}
    return {"photographs": "made here" if own else "ImageNet's", "count": len(files), "cases": cases}


def _made(folder: Path) -> list[Path]:
    """Photographs of ImageNet's usual size: smooth shapes and some noise, some 60 kB each."""
    rng, paths = np.random.default_rng(0), [folder / f"{number}.jpg" for number in range(COUNT)]
    for path in paths:
        shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
        noisy = np.asarray(shapes) + rng.normal(0, 8, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def _measure(arch: str, files: Any, folder: Path, rounds: int) -> dict[str, Any]:
    side, batch = CASES[arch]
    pack_tree(Tree("photographs", ("even", "odd"), files, files), folder / f"{side}.safetensors", side)
    data = read_packed(folder / f"{side}.safetensors")
    calls = _ways([path for path, _ in files[:batch]], data, side)
    measured: dict[str, list[float]] = {name: [] for name in ("step", *calls)}
    last = [0.0]

    def between_steps(event: Event) -> None:
        if isinstance(event, Step):
            measured["step"].append(time.perf_counter() - last[0])
            for name, call in calls.items():
                measured[name].append(seconds(call))
        last[0] = time.perf_counter()

    updates = rounds + 2  # the first two are not counted
    config = nfl.TrainConfig(
        arch=arch,
        threat=nfl.Linf(EPS),
        attack="pgd-8",
        step_size=EPS / 4,
        epochs=updates * batch / len(data.train),
        batch_size=batch,
        augment=AUGMENT,
        holdout=0.0,
    )
    nfl.train(data, config, device="cpu", report=between_steps)
    counted = {name: times[2:] for name, times in measured.items()}
    return {
        "images per second": {name: batch / median(counted, name) for name in counted},
        "over a step": {name: ratio(counted, name, "step") for name in calls},
    }


def _ways(paths: list[Path], data: Dataset, side: int) -> dict[str, Any]:
    """What is done before a step, each for as many images as the step has."""
    count, fit = len(paths), Fit(round(side * 256 / 224), side)
    index = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:count]
    x, streams = data.train.images(index), Streams.for_examples(0, index)
    return {
        "decoding": lambda: [images.decode(path, "RGB", fit) for path in paths],
        "reading": lambda: pixels(data.train.x[index]),
        "augmenting": partial(AUGMENTS[AUGMENT], x, streams),
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    whence = f"{record['count']} photographs ({record['photographs']}), one thread, files in the page cache"
    lines = [f"A step of PGD-8 training beside what its images cost; {whence}. Decoding is done once, then cached.", ""]
    lines += ["| | images per second | of the step's time |", "|---|---|---|"]
    for arch, result in record["cases"].items():
        side, batch = CASES[arch]
        rates = result["images per second"]
        lines.append(f"| **{arch}, {side} x {side}, {batch} images a step** | {rates['step']:.2g} | |")
        for name, (low, middle, high) in result["over a step"].items():
            share = f"{100 * middle:.2g} % ({100 * low:.2g} to {100 * high:.2g})"
            lines.append(f"| {name}: {WAYS[name]} | {rates[name]:,.0f} | {share} |")
    return "\n".join([*lines, ""])
