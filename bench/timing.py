"""Times that a busy machine bends little: contenders take turns, and are compared within each round."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

Seconds: TypeAlias = dict[str, list[float]]
"""Contender -> its seconds in each round."""


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes, the GPU's work included."""
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Every contender once per round, after one round that does not count; each round starts with another one."""
    names = list(calls)
    for name in names:
        calls[name]()
    measured: Seconds = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            measured[name].append(seconds(calls[name]))
    return measured


def ratio(measured: Seconds, name: str, base: str) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, over the rounds, of one contender's time over another's."""
    ratios = [one / other for one, other in zip(measured[name], measured[base], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def median(measured: Seconds, name: str) -> float:
    """Median seconds of a contender."""
    return statistics.median(measured[name])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
