"""An epoch of training a linear classifier against its exact adversary, beside one against a peer's PGD-40."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import nofreelunch as nfl
from bench.peers import Setting, torchattacks
from bench.timing import median, ratio, take_turns
from nofreelunch.training.linear import Descent

EPS, BATCH, STEP, STEPS = 0.2, 128, 4e-4, 40
TARGET = 25


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of an epoch over all training images of the digits 5 and 7, and how many times cheaper ours is."""
    calls: dict[str, Callable[[], object]] = {"ours, exact": _ours, "torchattacks, PGD-40": _peers}
    try:
        measured = take_turns(calls, rounds)
    except ImportError as error:
        return {"absent": f"torchattacks is not installed ({error.name})"}
    seconds = {name: median(measured, name) for name in calls}
    return {"seconds": seconds, "times cheaper": ratio(measured, "torchattacks, PGD-40", "ours, exact")}


def _ours() -> object:
    split = nfl.load_data("mnist-5v7").train
    labels = 2 * split.targets - 1
    return nfl.fit_linear(split.images(), labels, EPS, method="sgd", recipe=Descent(1, BATCH, STEP))


def _peers() -> object:
    split = nfl.load_data("mnist-5v7").train
    x, y = split.images(), split.targets
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2))
    attack = torchattacks(model, Setting("linf", EPS, EPS / 20, STEPS))
    optimiser = torch.optim.SGD(model.parameters(), lr=STEP)
    for batch in torch.randperm(len(x)).split(BATCH):
        z = attack(x[batch], y[batch])
        optimiser.zero_grad()
        F.cross_entropy(model(z), y[batch]).backward()
        optimiser.step()
    return model


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    if "absent" in record:
        return f"{record['absent']}\n"
    low, middle, high = record["times cheaper"]
    lines = [
        f"Digits 5 and 7, l_inf eps {EPS}, batches of {BATCH}; loading and the final objective included. "
        f"Ours is **{middle:.0f} times** cheaper ({low:.0f} to {high:.0f}); target {TARGET}.",
        "",
        "| | seconds an epoch |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value:.2f} |" for name, value in record["seconds"].items()]
    return "\n".join([*lines, ""])
