"""Measure, save, draw: `python -m bench [PART ...] [--rounds N] [--images N]`; without parts, all of them."""

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import (
    checks,
    ensemble,
    gpu,
    growth,
    linear_epoch,
    loading,
    page,
    precision,
    published,
    step_cost,
    training_step,
)
from nofreelunch.files import atomic_write

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


class Part(NamedTuple):
    """A thing that is measured: its title, and the module that measures it."""

    title: str
    module: Any


PARTS = {
    "steps": Part("A PGD step, over the raw limit", step_cost),
    "precision": Part("Robust accuracy when the attack differentiates in bfloat16", precision),
    "published": Part("Published figures of other people's models", published),
    "checks": Part("What the trust checks add to an evaluation", checks),
    "linear": Part("An epoch of a linear classifier, against its exact adversary", linear_epoch),
    "training": Part("A step of adversarial training", training_step),
    "loading": Part("Loading photographs", loading),
    "growth": Part("Growth with images, steps and classes", growth),
    "gpu": Part("On a GPU", gpu),
    "ensemble": Part("The standard protocol beside the official ensemble", ensemble),
}
INTRODUCTION = """# How fast it is

Written by `make bench`. The *raw limit* is one plain float32 forward pass and `torch.autograd.grad` to the input, which
no loop in plain PyTorch can do without. Contenders take turns in one process; ratios are taken within each round.

![Cost of a PGD step over the raw limit](steps.png)
"""


def main() -> None:
    """Measure the parts that were asked for, then write the page from all that was ever measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each comparison (default 9)")
    parser.add_argument("--images", type=int, default=200, help="images of the ensemble's comparison (default 200)")
    parser.add_argument("--models", nargs="+", default=[], choices=ensemble.SUBJECTS, help="for the ensemble")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)}; known: {', '.join(PARTS)}")
    for name in asked.parts or PARTS:
        print(f"{PARTS[name].title} ...", flush=True)
        if name == "ensemble":  # a model at a time: hours each, and those measured before stay
            for model in asked.models or ensemble.USUAL:
                measured = {model: ensemble.compare(model, asked.images)}
                _save(name, "one run each", _measured(name) | measured)
        else:
            rounds = "one run" if name in ("precision", "published", "checks") else f"{asked.rounds} rounds"
            _save(name, rounds, PARTS[name].module.measure(asked.rounds))
    write_page()


def _measured(name: str) -> dict[str, Any]:
    saved = page.read(RESULTS, name)
    return {} if saved is None else dict(saved["record"])


def _save(name: str, rounds: str, record: dict[str, Any]) -> None:
    saved = {
        "machine": _machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "rounds": rounds,
        "record": record,
    }
    atomic_write(RESULTS / f"{name}.json", (json.dumps(saved, indent=1) + "\n").encode())


def write_page() -> None:
    """RESULTS.md and the plot, from the saved measurements."""
    sections = [INTRODUCTION]
    for name, part in PARTS.items():
        saved = page.read(RESULTS, name)
        if saved is None:
            continue
        sections.append(f"## {part.title}\n\n{page.machine(saved)}\n\n{part.module.table(saved['record'])}")
        if name == "steps":
            page.draw(saved["record"], FOLDER / "steps.png")
    atomic_write(FOLDER / "RESULTS.md", "\n".join(sections).encode())


def _machine() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
