"""An epoch of training a linear classifier against its exact adversary, beside one against a peer's PGD-40."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nofreelunch as nfl
from bench.peers import Setting, torchattacks
from bench.timing import median, ratio, take_turns
from nofreelunch.training.linear import Descent

EPS, BATCH, STEP, STEPS = 0.2, 128, 4e-4, 40
PEER, EPOCHS = "torchattacks, PGD-40", 20
"""Of ours in one call, which checks its arguments and certifies its answer once; the paper trains for 100."""
TARGET = 25


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of an epoch over all training images of the digits 5 and 7, and how many times cheaper ours is."""
    split = nfl.load_data("mnist-5v7").train
    x, y = split.images(), split.targets
    calls: dict[str, Callable[[], object]] = {"ours, exact": lambda: _ours(x, y), PEER: lambda: _peers(x, y)}
    try:
        measured = take_turns(calls, rounds)
    except ImportError as error:
        return {"absent": f"torchattacks is not installed ({error.name})"}
    measured["ours, exact"] = [seconds / EPOCHS for seconds in measured["ours, exact"]]
    seconds = {name: median(measured, name) for name in calls}
    return {"seconds": seconds, "times cheaper": ratio(measured, PEER, "ours, exact")}


def _ours(x: Tensor, y: Tensor) -> object:
    return nfl.fit_linear(x, 2 * y - 1, EPS, method="sgd", recipe=Descent(EPOCHS, BATCH, STEP))


def _peers(x: Tensor, y: Tensor) -> object:
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
        f"Digits 5 and 7, l_inf eps {EPS}, batches of {BATCH}; {EPOCHS} epochs of ours in a call, checks included. "
        f"Ours is **{middle:.0f} times** cheaper ({low:.0f} to {high:.0f}); target {TARGET}.",
        "",
        "| | seconds an epoch |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value:.3f} |" for name, value in record["seconds"].items()]
    return "\n".join([*lines, ""])
