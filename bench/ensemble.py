"""Time and answer of the `standard` protocol beside those of the official ensemble."""

import contextlib
import copy
import datetime
import io
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nofreelunch as nfl
from bench import published
from nofreelunch.data import Dataset
from nofreelunch.evaluation import evaluate
from nofreelunch.threats import Threat
from nofreelunch.training.config import TrainConfig
from nofreelunch.training.presets import preset

SUBJECTS: dict[str, tuple[str, Threat]] = {
    "mnist-standard": ("mnist", nfl.Linf(0.3)),
    "mnist-linf-0.3": ("mnist", nfl.Linf(0.3)),
    "mnist-l2-1.5": ("mnist", nfl.L2(1.5)),
    "cifar10-linf-4": ("cifar10-sample", nfl.Linf(4 / 255)),
    "cifar10-l2-80": ("cifar10-sample", nfl.L2(80 / 255)),
    "advertorch-linf": ("mnist", nfl.Linf(0.3)),
    "resnet18": ("cifar10-sample", nfl.Linf(8 / 255)),
    "resnet18-near": ("cifar10-sample", nfl.Linf(1 / 255)),
    "small-mnist-linf": ("mnist", nfl.Linf(0.3)),
    "small-mnist-l2": ("mnist", nfl.L2(1.5)),
    "small-cifar10-linf": ("cifar10", nfl.Linf(4 / 255)),
    "small-cifar10-l2": ("cifar10", nfl.L2(80 / 255)),
}
"""Models of the zoo, of advertorch and of pyautoattack, and small ones, trained when first asked for."""
USUAL = tuple(SUBJECTS)[:5]
TRAINED = Path("runs/bench")
WEAK = ("mnist-standard", "resnet18")
"""The models on which torchattacks is run as well: its ensemble is the official one's double, and takes as long."""
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


def compare(name: str, n: int) -> dict[str, Any]:
    """Robust accuracy on the first n test images and the processor time it took, by contender; one run each."""
    data, threat = nfl.load_data(SUBJECTS[name][0]), SUBJECTS[name][1]
    model = subject(name, data, threat)
    split = data.test.take(min(n, len(data.test)))
    x, y = split.images(), split.targets
    wanted = {who: call for who, call in CONTENDERS.items() if name in WEAK or who != "torchattacks"}
    runs = {who: _run(call, model, threat, x, y) for who, call in wanted.items()}
    date = datetime.date.today().isoformat()
    return {"threat": str(threat), "images": len(y), "threads": torch.get_num_threads(), "date": date, "runs": runs}


def subject(name: str, data: Dataset, threat: Threat) -> nn.Module:
    """The model of that name: from the zoo, from another package, or trained as `small` says."""
    if name == "advertorch-linf":
        return published.trained("advtrained")
    if name.startswith("resnet18"):
        examples = Path(str(files("pyautoattack"))) / "examples"
        return nfl.load_model("python:pyautoattack.examples.resnet:ResNet18", weights=examples / "model_test.pt")
    if not name.startswith("small-"):
        return nfl.load_model(f"zoo:{name}")
    against = threat if data.name == "mnist" else nfl.Linf(4 / 255)
    return nfl.train(data, small(data.name, against), out=TRAINED / f"small-{data.name}-{against.norm}")


def small(data: str, threat: Threat) -> TrainConfig:
    """Training of a network with a fifteenth of the weights, as on digits: minutes. One for both norms on CIFAR-10."""
    usual = replace(preset("laptop", "mnist", threat), arch="mnist-cnn-small", epochs=8)
    return replace(usual, lr=5e-3) if data == "mnist" else replace(usual, augment="crop-flip")


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
    lines = [
        "The first test images; processor time, all threads. Models named small- are trained by this part. Those named "
        "cifar10- were the package's when they were trained for 6 epochs; they are now trained for 15.",
        "",
        "| model, threat | images | date | | robust accuracy | seconds | over pyautoattack |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in record.items():
        official = result["runs"]["pyautoattack"].get("seconds")
        case = f"{name}, {result['threat']} | {result['images']} | {result['date']}"
        for contender, run in result["runs"].items():
            if "absent" in run:
                lines.append(f"| {case} | {contender} | {run['absent']} | | |")
                continue
            share = f"{run['seconds'] / official:.2f}" if official else "-"
            lines.append(f"| {case} | {contender} | {100 * run['robust']:.1f} % | {run['seconds']:.0f} | {share} |")
    return "\n".join([*lines, ""])
