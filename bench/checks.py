"""What the trust checks add to the time of an evaluation: all of its work that is not an attack of the protocol."""

import time
from typing import Any
from unittest.mock import patch

import nofreelunch as nfl
from bench.ensemble import SUBJECTS
from nofreelunch.evaluation.trial import Trial

RUNS = (
    ("mnist-linf-0.3", "quick", 1000),
    ("mnist-l2-1.5", "quick", 1000),
    ("cifar10-linf-4", "quick", 200),
    ("mnist-linf-0.3", "standard", 200),
)
TARGET = 0.15


def measure(rounds: int) -> dict[str, Any]:
    """Processor time of attacks and checks, by model, protocol and number of images; one run each."""
    return {f"{name}, {protocol}, {images} images": _measure(name, protocol, images) for name, protocol, images in RUNS}


def _measure(name: str, protocol: str, images: int) -> dict[str, Any]:
    data, threat = SUBJECTS[name]
    model, split, spent = nfl.load_model(f"zoo:{name}"), nfl.load_data(data).test, 0.0
    split = split.take(min(images, len(split)))
    original = Trial.attack

    def attack(*args: Any) -> None:
        nonlocal spent
        start = time.process_time()
        original(*args)
        spent += time.process_time() - start

    start = time.process_time()
    with patch.object(Trial, "attack", attack):
        result = nfl.evaluate(model, split, threat, protocol)
    checks = time.process_time() - start - spent
    return {"attacks": spent, "checks": checks, "robust": result.robust.rate, "verdict": result.verdict}


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "Processor time, all threads; the checks are all that is not an attack of the protocol: questions to the "
        "model, remedies tried, survivors attacked once more, digests, certified bounds. "
        f"Target: at most {TARGET:.0%} of the attacks' time.",
        "",
        "| model, protocol | attacks, s | checks, s | share | robust accuracy, verdict |",
        "|---|---|---|---|---|",
    ]
    for name, found in record.items():
        attacks, checks = found["attacks"], found["checks"]
        robust = f"{100 * found['robust']:.1f} %, {found['verdict']}"
        lines.append(f"| {name} | {attacks:.0f} | {checks:.1f} | {100 * checks / attacks:.0f} % | {robust} |")
    return "\n".join([*lines, ""])
