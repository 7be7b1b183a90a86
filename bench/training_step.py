"""What a step of adversarial training costs: our training, beside the plain loop and beside (k + 1) raw limits."""

import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import nofreelunch as nfl
from bench.subjects import network, random_data, raw_passes
from bench.timing import median, ratio, seconds
from nofreelunch.training.events import Event, Step

BATCH, STEPS, EPS = 128, 10, 0.3
ARCHS = ("mnist-cnn", "mnist-cnn-small", "cifar-resnet")
TARGET = 0.55


class PlainLoop:
    """PGD adversarial training as it is usually written: float32, contiguous, no copies."""

    def __init__(self, arch: str, data: Any) -> None:
        self.model = network(arch).train()
        self.x, self.y = data.train.images(slice(0, BATCH)), data.train.targets[:BATCH]
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def raw(self) -> None:
        """As many raw passes as a step needs at least."""
        raw_passes(self.model, self.x, self.y, STEPS + 1)

    def step(self) -> None:
        """Attack, then update."""
        self.model.eval()
        z = (self.x + torch.empty_like(self.x).uniform_(-EPS, EPS)).clamp_(0, 1)
        for _ in range(STEPS):
            z.requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(self.model(z), self.y, reduction="sum"), z)
            z = torch.clamp(z.detach() + EPS / 4 * grad.sign(), self.x - EPS, self.x + EPS).clamp_(0, 1)
        self.model.train()
        self.optimiser.zero_grad()
        nn.functional.cross_entropy(self.model(z), self.y).backward()
        self.optimiser.step()


def measure(rounds: int) -> dict[str, Any]:
    """Seconds and ratios, by network; the plain loop takes its turns between our steps."""
    return {arch: _measure(arch, random_data(arch), rounds) for arch in ARCHS}


def _measure(arch: str, data: Any, rounds: int) -> dict[str, Any]:
    plain = PlainLoop(arch, data)
    measured: dict[str, list[float]] = {"ours": [], "plain loop": [], "raw limits": []}
    last = [0.0]

    def between_steps(event: Event) -> None:
        if isinstance(event, Step):
            measured["ours"].append(time.perf_counter() - last[0])
            measured["plain loop"].append(seconds(plain.step))
            measured["raw limits"].append(seconds(plain.raw))
        last[0] = time.perf_counter()

    updates = rounds + 2  # the first two are not counted
    config = nfl.TrainConfig(
        arch=arch,
        threat=nfl.Linf(EPS),
        attack=f"pgd-{STEPS}",
        epochs=updates * BATCH / len(data.train),
        batch_size=BATCH,
        holdout=0.0,
    )
    nfl.train(data, config, report=between_steps)
    counted = {name: times[2:] for name, times in measured.items()}
    return {
        "milliseconds": {name: 1e3 * median(counted, name) for name in counted},
        "over the plain loop": ratio(counted, "ours", "plain loop"),
        "over the raw limits": ratio(counted, "ours", "raw limits"),
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [f"PGD-{STEPS}, batch {BATCH}, update included. Target: {TARGET} of the plain loop.", ""]
    lines += [f"| | ours, ms | over the plain loop | over {STEPS + 1} raw limits |", "|---|---|---|---|"]
    for arch, result in record.items():
        cells = [result[key] for key in ("over the plain loop", "over the raw limits")]
        ratios = " | ".join(f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in cells)
        lines.append(f"| {arch} | {result['milliseconds']['ours']:.0f} | {ratios} |")
    return "\n".join([*lines, ""])
