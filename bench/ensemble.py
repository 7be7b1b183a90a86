"""Time and answer of the `standard` protocol beside those of the official ensemble, on models of the zoo."""

import contextlib
import copy
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import nofreelunch as nfl
from nofreelunch.evaluation import evaluate
from nofreelunch.threats import Threat

SUBJECTS: dict[str, Threat] = {
    "mnist-standard": nfl.Linf(0.3),
    "mnist-linf-0.3": nfl.Linf(0.3),
    "mnist-l2-1.5": nfl.L2(1.5),
    "cifar10-linf-4": nfl.Linf(4 / 255),
    "cifar10-l2-80": nfl.L2(80 / 255),
}
DATA = {"mnist": ("mnist", 1), "cifar10": ("cifar10-sample", 2)}
"""First word of a model's name -> its images, all in the package, and by what their number is divided."""
WEAK = "mnist-standard"
"""The model on which torchattacks is run as well: its ensemble is the official one's double, and takes as long."""
NORMS = {"linf": "Linf", "l2": "L2"}


def ours(model: nn.Module, threat: Threat, x: Tensor, y: Tensor) -> float:
    """Robust accuracy by `evaluate`."""
    return float(evaluate(model, (x, y), threat, protocol="standard", seed=0).robust.rate)


def pyautoattack(model: nn.Module, threat: Threat, x: Tensor, y: Tensor) -> float:
    """Robust accuracy by the official implementation, as packaged."""
    from pyautoattack import AutoAttack

    ensemble = AutoAttack(model, norm=NORMS[threat.norm], eps=threat.eps, version="standard", seed=0)
    x_adv, *_ = ensemble.run_standard_evaluation(x, y, batch_size=250)
    return _accuracy(model, x_adv, y)


def torchattacks(model: nn.Module, threat: Threat, x: Tensor, y: Tensor) -> float:
    """Robust accuracy by torchattacks' version of it."""
    import torchattacks as package

    ensemble = package.AutoAttack(model, norm=NORMS[threat.norm], eps=threat.eps, version="standard", seed=0)
    parts = zip(x.split(250), y.split(250), strict=True)
    return _accuracy(model, torch.cat([ensemble(some, labels) for some, labels in parts]), y)


CONTENDERS: dict[str, Callable[[nn.Module, Threat, Tensor, Tensor], float]] = {
    "ours": ours,
    "pyautoattack": pyautoattack,
    "torchattacks": torchattacks,
}


def measure(n: int) -> dict[str, Any]:
    """Robust accuracy on the first test images and the processor time it took, by model and contender; one run each."""
    return {"images": n, "models": {name: compare(name, n) for name in SUBJECTS}}


def compare(name: str, n: int) -> dict[str, Any]:
    """All contenders on one model."""
    data, divisor = DATA[name.split("-")[0]]
    split, threat, model = nfl.load_data(data).test.take(n // divisor), SUBJECTS[name], nfl.load_model(f"zoo:{name}")
    x, y = split.images(), split.targets
    wanted = {who: call for who, call in CONTENDERS.items() if name == WEAK or who != "torchattacks"}
    runs = {who: _run(call, model, threat, x, y) for who, call in wanted.items()}
    return {"threat": str(threat), "images": len(y), "runs": runs}


def _run(call: Callable[..., float], model: nn.Module, threat: Threat, x: Tensor, y: Tensor) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the peers print as they go
            before = time.process_time()  # what else the machine does in these minutes must not count
            found = call(copy.deepcopy(model), threat, x, y)
    except ImportError as error:
        return {"absent": f"not installed ({error.name})"}
    return {"seconds": time.process_time() - before, "robust": found}


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["The first test images that lie in the package, one run each; processor time, all threads.", ""]
    lines += [
        "| model, threat | images | | robust accuracy | seconds | over pyautoattack |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in record["models"].items():
        official = result["runs"]["pyautoattack"].get("seconds")
        case = f"{name}, {result['threat']} | {result['images']}"
        for contender, run in result["runs"].items():
            if "absent" in run:
                lines.append(f"| {case} | {contender} | {run['absent']} | | |")
                continue
            share = f"{run['seconds'] / official:.2f}" if official else "-"
            lines.append(f"| {case} | {contender} | {100 * run['robust']:.1f} % | {run['seconds']:.0f} | {share} |")
    return "\n".join([*lines, ""])
