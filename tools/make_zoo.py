"""Train the models that the package ships, measure them, and write them with their cards: `python tools/make_zoo.py`.

Each is what `nofreelunch train` makes by the preset of its data set (`PRESETS`) and, like the paper, by PGD adversarial
training; stored in half precision where that changes clean accuracy by at most 0.05 points. A run that is stopped goes
on; a model that is there is only measured.
"""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import nofreelunch as nfl
from nofreelunch.data import Split
from nofreelunch.errors import parse_number
from nofreelunch.evaluation.tally import Tally
from nofreelunch.threats import THREATS, Threat
from nofreelunch.training.presets import preset
from nofreelunch.training.progress import shown
from nofreelunch.workspace import find_device

ZOO = {
    "mnist-standard": ("linf", "0.3"),
    "mnist-linf-0.15": ("linf", "0.15"),
    "mnist-linf-0.3": ("linf", "0.3"),
    "mnist-l2-0.75": ("l2", "0.75"),
    "mnist-l2-1.5": ("l2", "1.5"),
    "cifar10-standard": ("linf", "4/255"),
    "cifar10-linf-2": ("linf", "2/255"),
    "cifar10-linf-4": ("linf", "4/255"),
    "cifar10-linf-8": ("linf", "8/255"),
    "cifar10-l2-20": ("l2", "20/255"),
    "cifar10-l2-40": ("l2", "40/255"),
    "cifar10-l2-80": ("l2", "80/255"),
}
"""The threat under which each model is measured, and, unless it is a standard one, trained."""
PRESETS = {"mnist": "laptop", "cifar10": "gpu"}
RECIPE = "pgd-at"
FOLDER = Path(nfl.__file__).parent / "models" / "zoo"
_HALVED_AT_MOST = 0.0005
_BATCH = 500


def made(name: str, runs: Path, root: Path | None, device: str) -> nn.Module:
    """The model that the preset gives; found if it was trained before."""
    path = runs / name / "model.safetensors"
    if not path.exists():
        with shown(Console(stderr=True)) as report:
            data = nfl.load_data(name.split("-")[0], root=root)
            config = dataclasses.replace(preset(PRESETS[data.name], data.name, _trained_against(name)), recipe=RECIPE)
            nfl.train(data, config, out=path.parent, device=device, report=report)
    return nfl.load_model(path)


def _trained_against(name: str) -> Threat | None:
    norm, eps = ZOO[name]
    return None if name.endswith("standard") else THREATS[norm](parse_number(eps))


def command(name: str) -> str:
    """What a user types to train the same model."""
    norm, eps = ZOO[name]
    against = [] if name.endswith("standard") else ["--threat", norm, "--eps", eps, "--recipe", RECIPE]
    data = name.split("-")[0]
    return shlex.join(["nofreelunch", "train", "--data", data, *against, "--preset", PRESETS[data]])


def clean(model: nn.Module, split: Split) -> Tally:
    """Its accuracy on all images of a split."""
    device = next(model.parameters()).device
    correct = 0
    with torch.no_grad():
        for start in range(0, len(split), _BATCH):
            part = slice(start, start + _BATCH)
            answers = model(split.images(part).to(device)).argmax(1).cpu()
            correct += int((answers == split.targets[part]).sum())
    return Tally(correct, len(split))


def measured(model: nn.Module, name: str, split: Split, n: int, protocol: str) -> dict[str, Any]:
    """Clean accuracy on the test split, and what `evaluate` finds on n of its images."""
    norm, eps = ZOO[name]
    examples = split.select(split.evenly_spaced(n))
    found = nfl.evaluate(model, examples, THREATS[norm](parse_number(eps)), protocol=protocol, seed=0)
    whole = clean(model, split)
    return {
        "test_clean": whole.rate,
        "test_images": whole.total,
        "robust": found.robust.rate,
        "robust_interval": list(found.robust.interval()),
        "robust_images": n,
        "verdict": found.verdict,
        "flags": [flag.name for flag in found.flags],
        "command": command(name),
        "evaluation": f"nofreelunch evaluate zoo:{name} --data {name.split('-')[0]} --threat {norm} --eps {eps} "
        f"--protocol {protocol} --n {n}",
    }


def table() -> str:
    """What the cards of the package's models say, as Markdown."""
    lines = [
        "| `zoo:` | trained against | clean, test set | robust, at most | measured by | made by |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(FOLDER.glob("*.json")):
        card = nfl.load_model(path.with_suffix(".safetensors")).card
        found = card.metrics
        low, high = found["robust_interval"]
        robust = f"{found['robust']:.1%} ({low:.1%} to {high:.1%}) of {found['robust_images']}"
        against = f"{card.recipe['threat']['norm']} {ZOO[path.stem][1]}" if card.threat else "-"
        cells = [
            path.stem,
            against,
            f"{found['test_clean']:.2%}",
            robust,
            f"`{found['evaluation']}`",
            f"`{found['command']}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the models that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(ZOO)}; default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"), help="where training runs are kept")
    parser.add_argument("--data-root", type=Path, help="where CIFAR-10 lies")
    parser.add_argument("--images", type=int, default=1000, help="test images that are attacked (default 1000)")
    parser.add_argument("--protocol", default="standard", choices=sorted(nfl.evaluation.PROTOCOLS), help="how hard")
    parser.add_argument("--device", default="auto", help="where the work is done: auto, cpu, cuda (default auto)")
    parser.add_argument("--table", action="store_true", help="only print what the cards say")
    asked = parser.parse_args()
    if asked.table:
        print(table())
        return
    if unknown := set(asked.names) - set(ZOO):
        parser.error(f"unknown model {min(unknown)}; known: {', '.join(ZOO)}")
    device = find_device(asked.device)
    for name in asked.names or ZOO:
        model = made(name, asked.runs, asked.data_root, device).to(device)
        split = nfl.load_data(name.split("-")[0], root=asked.data_root).test
        path = FOLDER / f"{name}.safetensors"
        nfl.save_model(model, path, half=True)
        shipped = nfl.load_model(path).to(device)
        half = abs(clean(shipped, split).rate - clean(model, split).rate) <= _HALVED_AT_MOST
        shipped = shipped if half else model
        shipped.card = dataclasses.replace(
            model.card, metrics=model.card.metrics | measured(shipped, name, split, asked.images, asked.protocol)
        )
        nfl.save_model(shipped, path, half=half)
        print(name, shipped.card.metrics, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
