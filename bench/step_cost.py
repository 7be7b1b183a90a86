"""What a step of PGD costs, over the raw limit: us in both precisions, and the peers."""

import copy
from typing import Any

import torch

import nofreelunch as nfl
from bench.peers import Setting, present
from bench.subjects import images, network, raw_passes
from bench.timing import median, ratio, take_turns

BATCH, STEPS = 128, 20
SETTINGS = {"linf": Setting("linf", 1e-3, 1e-4, STEPS), "l2": Setting("l2", 1e-2, 1e-3, STEPS)}
"""Too short to break an example: all packages then make all steps on the whole batch, which ours would not."""
TARGETS = {"mnist-cnn": (0.92, 0.50), "cifar-resnet": (0.70, 0.43)}


def measure(rounds: int) -> dict[str, Any]:
    """Time per step and its ratio to the raw limit, by network and norm."""
    return {
        f"{arch}, {norm}": _measure(arch, setting, rounds) for arch in TARGETS for norm, setting in SETTINGS.items()
    }


def _measure(arch: str, setting: Setting, rounds: int) -> dict[str, Any]:
    model = network(arch)
    x, y = images(model, arch, BATCH)
    threat = {"linf": nfl.Linf, "l2": nfl.L2}[setting.norm](setting.eps)
    ours = nfl.PGD(threat, steps=setting.steps, step_size=setting.step_size)
    attacks, absent = present(model, setting)
    quick = {precision: nfl.fast(model, precision) for precision in ("float32", "bfloat16")}

    def attack_with(precision: str) -> torch.Tensor:
        return ours(quick[precision], x, y, torch.Generator().manual_seed(0))

    plain = copy.deepcopy(model)
    calls: dict[str, Any] = {"raw limit": lambda: raw_passes(plain, x, y, setting.steps)}
    calls |= {f"ours, {precision}": lambda precision=precision: attack_with(precision) for precision in quick}
    calls |= {name: lambda attack=attack: attack(x, y) for name, attack in attacks.items()}
    with torch.no_grad():
        assert (model(attack_with("bfloat16")).argmax(1) == y).float().mean() > 0.9, "examples broke: steps are saved"
    measured = take_turns(calls, rounds)
    return {
        "milliseconds": {name: 1e3 * median(measured, name) / setting.steps for name in calls},
        "ratio": {name: ratio(measured, name, "raw limit") for name in calls},
        "absent": absent,
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [f"PGD-{STEPS}, batch {BATCH}. Ratios are medians of the rounds' ratios, with quartiles.", ""]
    for case, result in record.items():
        float32, bfloat16 = TARGETS[case.split(",")[0]]
        lines += [f"**{case}** (targets {float32} in float32, {bfloat16} in bfloat16)", ""]
        lines += ["| | ms per step | over the raw limit |", "|---|---|---|"]
        for name, (low, middle, high) in result["ratio"].items():
            lines.append(f"| {name} | {result['milliseconds'][name]:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
        lines += [f"| {name} | - | {reason} |" for name, reason in result["absent"].items()]
        lines.append("")
    return "\n".join(lines)
