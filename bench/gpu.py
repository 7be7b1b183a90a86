"""Images times steps per second on a GPU, and the share of what the machine multiplies at most."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import nofreelunch as nfl
from bench.peers import Setting, present
from bench.subjects import images, network, raw_passes
from bench.timing import median, take_turns

ARCH, BATCH, STEPS = "cifar-resnet", 512, 40
SETTING = Setting("linf", 1e-3, 1e-4, STEPS)
_SIDE = 8192


def measure(rounds: int) -> dict[str, Any]:
    """Throughput of PGD for us and the peers; empty where there is no GPU."""
    if not torch.cuda.is_available():
        return {}
    model = network(ARCH).cuda()
    x, y = images(model, ARCH, BATCH, "cuda")
    attack = nfl.PGD(nfl.Linf(SETTING.eps), steps=STEPS, step_size=SETTING.step_size)
    attacks, absent = present(model, SETTING)
    plain = copy.deepcopy(model)
    calls: dict[str, Any] = {"raw limit": lambda: raw_passes(plain, x, y, STEPS)}
    for precision in ("float32", "bfloat16"):
        quick = nfl.fast(model, precision)
        calls[f"ours, {precision}"] = lambda quick=quick: attack(quick, x, y, torch.Generator().manual_seed(0))
    calls |= {name: lambda attack=attack: attack(x, y) for name, attack in attacks.items()}
    measured = take_turns(calls, rounds)
    rates = {name: BATCH * STEPS / median(measured, name) for name in calls}
    peak = _peak()
    work = 2 * _multiplications(model, x[:1])  # forward, and back to the input
    shares = {name: work * rate / peak for name, rate in rates.items()}
    return {"gpu": torch.cuda.get_device_name(), "rates": rates, "shares": shares, "absent": absent}


def _peak() -> float:
    """Multiplications per second in a large bfloat16 matrix product."""
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    measured = take_turns({"product": lambda: a @ b}, 20)
    return _SIDE**3 / median(measured, "product")


def _multiplications(model: nn.Module, x: Tensor) -> int:
    """Multiplications of one forward pass in convolutions and linear layers, for one image."""
    total = 0

    def count(layer: Any, inputs: Any, result: Tensor) -> None:
        nonlocal total
        total += result[0].numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return total


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    if not record:
        return "There was no GPU.\n"
    lines = [f"{record['gpu']}; {ARCH}, batch {BATCH}, PGD-{STEPS}.", ""]
    lines += ["| | images x steps per second | of the peak in bfloat16 |", "|---|---|---|"]
    for name, rate in record["rates"].items():
        lines.append(f"| {name} | {rate:,.0f} | {100 * record['shares'][name]:.1f} % |")
    lines += [f"| {name} | {reason} | |" for name, reason in record["absent"].items()]
    return "\n".join([*lines, ""])
