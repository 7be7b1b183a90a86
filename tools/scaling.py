"""Measures what the cost model of docs/scaling.md says: passes, batch sizes, and what processes send each other.

    python tools/scaling.py
    torchrun --nproc-per-node 2 tools/scaling.py

Times are medians of interleaved steps. Their ratios hold on a busy machine too, as it is so for all of them; images a
second, and so what a second process gains, want a quiet one.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping

import torch
from torch.profiler import ProfilerActivity, profile

from nofreelunch import Linf, TrainConfig, load_data
from nofreelunch.training.cost import passes_per_image
from nofreelunch.training.devices import Devices
from nofreelunch.training.loop import Loop
from nofreelunch.training.train import fresh_learner

ROUNDS = 9
DATA = load_data("mnist")
BASE = TrainConfig(arch="mnist-cnn", threat=Linf(0.3), batch_size=64, attack_precision="float32", holdout=0.0)
ATTACKS = {
    "standard": dataclasses.replace(BASE, threat=None),
    "n-fgsm": dataclasses.replace(BASE, recipe="n-fgsm"),
    **{name: dataclasses.replace(BASE, attack=name) for name in ("pgd-5", "pgd-10", "pgd-40")},
}
BATCHES = {str(size): dataclasses.replace(BASE, attack="pgd-5", batch_size=size) for size in (16, 32, 64, 128, 256)}


def loops(configs: Mapping[str, TrainConfig]) -> dict[str, Loop]:
    """A run of each, its first step made."""
    made = {}
    for name, config in configs.items():
        devices = Devices("cpu", config.precision)
        made[name] = Loop(config, DATA.train, devices, fresh_learner(DATA, config, devices))
        made[name].update()
    return made


def seconds(runs: Mapping[str, Loop]) -> dict[str, float]:
    """Of a step of each: medians of rounds in which all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, loop in runs.items():
            start = time.perf_counter()
            loop.update()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def sent(loop: Loop) -> tuple[int, int]:
    """All-reduces of a step, and the numbers in them."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        loop.update()
    calls = [event for event in found.events() if event.name == "gloo:all_reduce"]
    return len(calls), sum(torch.Size(shape).numel() for event in calls for shape in event.input_shapes)


def main() -> None:
    """Print all of it, from the process that leads."""
    torch.set_num_threads(1)
    runs = loops(ATTACKS)
    times = seconds(runs)
    exchanges = {name: sent(loop) for name, loop in runs.items()}
    sizes = seconds(loops(BATCHES))
    devices = runs["standard"].devices
    if not devices.is_main:
        return
    weights = sum(weight.numel() for weight in runs["standard"].learner.model.parameters())
    print(f"{devices.processes} processes, {BASE.arch}: {weights} weights, {BASE.batch_size} images a step")
    for name, config in ATTACKS.items():
        count, numbers = exchanges[name]
        ratio = times[name] / times["standard"]
        print(
            f"{name:9} {passes_per_image(DATA, config):3} passes, time {ratio:5.2f} of a standard step, "
            f"{BASE.batch_size / times[name]:5.0f} images/s, {count} all-reduces of {numbers} numbers"
        )
    for name, size in sizes.items():
        print(f"batch {name:>4}: time for an image {size / int(name) * 64 / sizes['64']:.2f} of that at 64")


if __name__ == "__main__":
    main()
