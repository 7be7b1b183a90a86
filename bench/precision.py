"""What bfloat16 costs in strength: PGD-40 through both precisions, success decided by the model itself."""

from typing import Any

import torch
from torch import Tensor, nn

import nofreelunch as nfl
from bench.ensemble import SUBJECTS
from nofreelunch.attacks import ATTACKS, Attack

MODELS = ("mnist-linf-0.3", "mnist-l2-1.5", "cifar10-linf-4", "cifar10-l2-80")
IMAGES, BATCH = 1000, 125
TARGET = 0.3


def measure(rounds: int) -> dict[str, Any]:
    """Robust accuracy by model and precision, on the first test images there are; one round, which is exact."""
    return {name: _measure(name) for name in MODELS}


def _measure(name: str) -> dict[str, Any]:
    data, threat = SUBJECTS[name]
    model, split = nfl.load_model(f"zoo:{name}"), nfl.load_data(data).test
    split = split.take(min(IMAGES, len(split)))
    x, y, attack = split.images(), split.targets, ATTACKS["pgd-40"](threat)
    found = {precision: _accuracy(model, attack, x, y, precision) for precision in ("float32", "bfloat16")}
    return {"threat": str(threat), "images": len(y), "robust": found}


def _accuracy(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, precision: Any) -> float:
    """Share that the model gets right when it sees what was found through its fast version."""
    quick, right = nfl.fast(model, precision), 0
    for some, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        z = attack(quick, some, labels, torch.Generator().manual_seed(0))
        with torch.no_grad():
            right += int((model(z).argmax(1) == labels).sum())
    return right / len(y)


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        f"PGD-40 as in `ATTACKS`, test images in the package. Target: at most {TARGET} points apart. "
        "The CIFAR-10 models were the package's when they were trained for 6 epochs; they are now trained for 15. The "
        "rows of l_2 are from when PGD-40 took steps of eps / 30 there too.",
        "",
    ]
    lines += ["| model, threat | images | float32 | bfloat16 | points apart |", "|---|---|---|---|---|"]
    for name, result in record.items():
        one, other = (100 * result["robust"][precision] for precision in ("float32", "bfloat16"))
        lines.append(
            f"| {name}, {result['threat']} | {result['images']} | {one:.1f} % | {other:.1f} % | {other - one:+.1f} |"
        )
    return "\n".join([*lines, ""])
