"""How the cost of an attack grows with images, steps and classes; straight lines, if nothing is wasted."""

from typing import Any

import torch

import nofreelunch as nfl
from bench.subjects import images, network
from bench.timing import median, take_turns

ARCH, EPS = "mnist-cnn-small", 1e-3
GRID = {"images": (32, 64, 128, 256, 512), "steps": (5, 10, 20, 40), "classes": (2, 10, 100, 1000)}
STANDARD = {"images": 128, "steps": 10, "classes": 10}


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of one attack for each value of each quantity, the others as in `STANDARD`."""
    record: dict[str, Any] = {}
    for quantity, values in GRID.items():
        measured = take_turns({str(value): _attack(**{**STANDARD, quantity: value}) for value in values}, rounds)
        record[quantity] = {name: median(measured, name) for name in measured}
    return record


def _attack(**sizes: int) -> Any:
    model = network(ARCH, sizes["classes"])
    x, y = images(model, ARCH, sizes["images"])
    attack = nfl.PGD(nfl.Linf(EPS), steps=sizes["steps"], step_size=EPS / 4)
    quick = nfl.fast(model, "bfloat16")
    return lambda: attack(quick, x, y, torch.Generator().manual_seed(0))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    usual = ", ".join(f"{value} {name}" for name, value in STANDARD.items())
    lines = [f"PGD on {ARCH} in bfloat16; milliseconds of the whole attack; otherwise {usual}.", ""]
    for quantity, result in record.items():
        cells = " | ".join(f"{1e3 * value:.0f}" for value in result.values())
        lines += [f"| {quantity} | {' | '.join(result)} |", "|---" * (len(result) + 1) + "|", f"| ms | {cells} |", ""]
    return "\n".join(lines)
