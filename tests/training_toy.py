"""A data set and a config on which training takes a second; as a script, one run that can be stopped.

Each image has a bright or a dark block, right for nine images of ten (robust: it moves by 0.6), and a faint pattern
over all pixels, always right (it moves by 0.12, so eps = 0.1 turns it round). Standard training takes the pattern,
adversarial training must not.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from torch import nn

from nofreelunch.data import Dataset, Split
from nofreelunch.models import ARCHITECTURES
from nofreelunch.models.registry import Architecture
from nofreelunch.threats import Linf
from nofreelunch.training import TrainConfig, train
from nofreelunch.training.devices import is_main_process
from nofreelunch.training.events import Event
from nofreelunch.workspace import digest

SIDE = 8
EPS = 0.1
_CONTRAST, _FAINT, _NOISE = 0.3, 0.06, 0.05


def batch_norm_network(shape: tuple[int, int, int], classes: int) -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes)]
    return nn.Sequential(*layers)


def toy_split(n: int, seed: int) -> Split:
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    side = 2.0 * y - 1
    block_side = side * torch.where(torch.rand(n, generator=rng) < 0.9, 1.0, -1.0)
    pattern = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)).sign()
    x = 0.5 + _NOISE * torch.randn(n, 1, SIDE, SIDE, generator=rng) + _FAINT * side.view(-1, 1, 1, 1) * pattern
    x[:, :, 2:5, 2:5] += _CONTRAST * block_side.view(-1, 1, 1, 1)
    return Split((x.clamp(0, 1) * 255).round().to(torch.uint8), y, (0, 1))


def toy_data(n: int = 512) -> Dataset:
    return Dataset("toy", ("dark", "bright"), (0.5,), (0.25,), toy_split(n, 1), toy_split(400, 2))


def toy_config(**changes: object) -> TrainConfig:
    settings: dict[str, Any] = {"arch": "linear", "threat": Linf(EPS), "epochs": 3.0, "batch_size": 32, "lr": 0.02}
    return TrainConfig(**settings | {"holdout": 0.25, "attack_precision": "float32", "seed": 1} | changes)


DATA = toy_data(256)


def main(out: str, *changes: str) -> None:
    """Train once for each config, with a state after each step; the losses go to stdout, one event a line.

    Each process leaves a digest of the model that came out. A change that says "apart" gives each process a folder of
    its own. Of several processes, only the first ever finds that it is time to save: their clocks never agree quite.
    """

    def report(event: Event) -> None:
        print(event.event, event.step, getattr(event, "loss", ""), flush=True)

    folder, rank = Path(out), os.environ.get("RANK", "0")
    for number, change in enumerate(map(json.loads, changes)):
        place = folder / (f"{number}-{rank}" if change.pop("apart", False) else str(number))
        save_seconds = 0.0 if is_main_process() else math.inf
        model = train(DATA, toy_config(**change), place, device="cpu", report=report, save_seconds=save_seconds)
        (folder / f"{number}.{rank}").write_text(digest(safetensors.save(model.state_dict())))


if __name__ == "__main__":
    torch.set_num_threads(1)
    ARCHITECTURES["batch-norm"] = Architecture(batch_norm_network)
    main(*sys.argv[1:])
