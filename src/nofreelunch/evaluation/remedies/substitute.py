"""A small network that has learnt the model's labels, to attack in its place (Papernot et al. 2017).

It needs nothing from the model but its answers, so nothing that hides gradients or scores is in its way.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nofreelunch.attacks import PGD
from nofreelunch.rng import Streams, seeded
from nofreelunch.threats import Threat
from nofreelunch.types import Inputs, Model

_ROUNDS, _STEPS, _WIDTH = 3, 150, 128
"""A second of training: it need only be right around a few dozen images."""


@dataclass(frozen=True, eq=False)
class Substitute:
    """A network of one hidden layer, taught in rounds; in each it is attacked, and told what the model says there.

    It is taught when it is first asked.

    Args:
        model: is asked for labels.
        x: inputs to start from.
        threat: around them.
        seed: of weights and batches.
    """

    model: Model
    x: Inputs
    threat: Threat
    seed: int

    def __call__(self, x: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self._net(x)
        return logits

    @cached_property
    def _net(self) -> nn.Module:
        model, x, threat = self.model, self.x, self.threat
        answers = model(x)
        labels, classes = answers.argmax(1), answers.shape[1]
        streams = Streams.numbered(self.seed, len(x), x.device)
        rng = torch.Generator().manual_seed(self.seed)
        with seeded(self.seed):
            net = nn.Sequential(
                nn.Flatten(), nn.Linear(x[0].numel(), _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, classes)
            ).to(x.device)
        around = [threat.random_start(x, streams.fork(k)) for k in range(2)]
        points, said = torch.cat([x, *around]), torch.cat([labels, *(model(z).argmax(1) for z in around)])
        for count in range(_ROUNDS):
            _teach(net, points, said, rng)
            if count + 1 < _ROUNDS:
                z = PGD(threat, steps=10).ascend(net, x, labels, streams.fork(10 + count))
                points, said = torch.cat([points, z]), torch.cat([said, model(z).argmax(1)])
        return net.requires_grad_(False)


def _teach(net: nn.Module, points: Tensor, labels: Tensor, rng: torch.Generator) -> None:
    with torch.enable_grad():
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(_STEPS):
            index = torch.randint(len(points), (128,), generator=rng).to(points.device)
            loss = F.cross_entropy(net(points[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
