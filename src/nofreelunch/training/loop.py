"""The one loop of all recipes: equation (2) of Tsipras et al. 2018, minimised step by step.

Every random choice is a function of seed, step and image, so that a run can be cut anywhere. The processes meet at the
update and in validation; attacks run in each on its own.
"""

import math
from dataclasses import replace

import torch

from nofreelunch.attacks import attack
from nofreelunch.data import Split
from nofreelunch.errors import RunError
from nofreelunch.evaluation.accuracy import Examples, accuracies
from nofreelunch.models.fast import fast, refresh
from nofreelunch.models.state import evaluating
from nofreelunch.threats import Linf, Threat
from nofreelunch.training import order
from nofreelunch.training.augment import AUGMENTS
from nofreelunch.training.config import TrainConfig
from nofreelunch.training.devices import Devices
from nofreelunch.training.events import Epoch, Step
from nofreelunch.training.learner import Learner
from nofreelunch.training.recipes import InnerProblem
from nofreelunch.training.schedules import SCHEDULES, progress, warmup
from nofreelunch.types import Images, Labels, pixels

SELECTION_ATTACK = "pgd-10"
_AUGMENT, _ATTACK = 0, 1  # tags of random streams


class Loop:
    """Steps and validations of one run.

    Args:
        learner: what is changed; on this process's device.
    """

    def __init__(self, config: TrainConfig, split: Split, devices: Devices, learner: Learner) -> None:
        self.config, self.split, self.devices, self.learner = config, split, devices, learner
        self.trained, self.held_out = order.held_out(config.seed, len(split), config.holdout)
        per_epoch = len(self.trained) / config.batch_size
        self.steps = max(1, round(config.epochs * per_epoch))
        whole_epochs = range(1, math.floor(config.epochs) + 1)
        self._validation_steps = sorted({max(1, round(epoch * per_epoch)) for epoch in whole_epochs} | {self.steps})
        self._module, self._optimiser = devices.setup(learner.model, learner.optimiser)
        self._attacked = fast(learner.model, config.attack_precision)
        self._watched = self._attacked if learner.average is None else fast(learner.average, config.attack_precision)
        for cheap in (self._attacked, self._watched):
            cheap(self._images(self.trained[:2])[0])  # the initial weights settle how it runs, resumed or not
        self._threat = config.threat or Linf(0.0)

    @property
    def validation_due(self) -> bool:
        """Whether the held-out images are to be looked at next: after each epoch and at the end, if there are any."""
        learner = self.learner
        seen = len(learner.history)
        return (
            len(self.held_out) > 0
            and seen < len(self._validation_steps)
            and learner.step == self._validation_steps[seen]
        )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.learner.step == self.steps and not self.validation_due

    def update(self) -> Step:
        """One update of the weights.

        Raises:
            RunError: if the loss is not a number; the weights are as before.
        """
        config, learner = self.config, self.learner
        done = progress(min(learner.step, self.steps - 1), self.steps)  # a cost is timed beyond the end
        lr = config.lr * SCHEDULES[config.schedule](done)
        threat = replace(self._threat, eps=self._threat.eps * warmup(done, config.eps_warmup))
        loss, accuracy = self._differentiate(threat)
        if not math.isfinite(loss):
            raise RunError(f"the loss is {loss} at step {learner.step + 1} of {self.steps}, learning rate {lr:.3g}")
        for group in learner.optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        self.devices.broadcast_buffers(learner.model)  # each has seen its own images
        learner.updated(config.ema, accuracy)
        return Step(learner.step, self._epoch, loss, accuracy, lr, threat.eps)

    def validate(self) -> Epoch:
        """Accuracies on the held-out images, clean and under PGD-10; the verdict is the model's own, in float32."""
        config, learner = self.config, self.learner
        refresh(self._watched)
        clean, robust = accuracies(
            learner.result,
            self._watched,
            Examples(self.split, self.held_out[self.devices.rank :: self.devices.processes], self._part),
            self._threat,
            attack(SELECTION_ATTACK, self._threat),
            config.seed,
            self.devices.total,
        )
        epoch = Epoch(learner.step, self._epoch, clean.rate, robust.rate, clean.total, learner.train_accuracy)
        learner.record_validation(epoch)
        return epoch

    @property
    def _epoch(self) -> float:
        return self.learner.step * self.config.batch_size / len(self.trained)

    @property
    def _part(self) -> int:
        """Images that this process works on at a time: what fits its memory."""
        return self.config.batch_size // (self.config.accumulate * self.devices.processes)

    def _differentiate(self, threat: Threat) -> tuple[float, float]:
        """Fill in the gradients of the mean loss over the batch; that, and the accuracy: what is left out is right."""
        config, learner, recipe = self.config, self.learner, self.config.method
        draw = learner.step // recipe.replays
        batch = self.trained[order.batch(config.seed, draw, len(self.trained), config.batch_size)]
        parts = torch.arange(config.batch_size).view(config.accumulate, self.devices.processes, self._part)
        self._optimiser.zero_grad()
        refresh(self._attacked)
        totals = torch.zeros(2, device=self.devices.device)
        for count, places in enumerate(parts):
            own = places[self.devices.rank]
            problem = self._problem(threat, batch[own], own, draw)
            with evaluating(learner.model):  # in case nothing faster than the model itself was found
                z, rows = recipe.examples(problem)
            z.requires_grad_(recipe.carry is not None)
            problem = problem if rows is None else problem.some(rows)
            with self.devices.no_sync(self._module, enabled=count < len(parts) - 1):
                losses, logits = recipe.loss(self._module, problem, z)
                self.devices.backward(losses.sum() / len(own) / len(parts))
            right = len(own) - (logits.argmax(1) != problem.y).sum()
            totals += torch.stack([losses.detach().sum(), right])
            if recipe.carry is not None and learner.delta is not None and z.grad is not None:
                learner.delta[places.flatten()] = self.devices.all_gather(recipe.carry(problem, z.detach(), z.grad))
        loss, accuracy = (self.devices.total(totals) / config.batch_size).tolist()
        return loss, accuracy

    def _problem(self, threat: Threat, index: Labels, places: Labels, draw: int) -> InnerProblem:
        """The inner maximisation for the images at `index`, at `places` in their batch; `draw` picks random numbers."""
        config, learner = self.config, self.learner
        x, y = self._images(index)
        streams = order.step_streams(config.seed, draw, index.to(self.devices.device))
        x = AUGMENTS[config.augment](x, streams.fork(_AUGMENT))
        return InnerProblem(
            model=self._attacked,
            attack=config.attack_on(threat),
            x=x,
            y=y,
            streams=streams.fork(_ATTACK),
            delta=torch.zeros_like(x) if learner.delta is None else learner.delta[places],
        )

    def _images(self, index: Labels) -> tuple[Images, Labels]:
        device = self.devices.device
        return pixels(self.split.x[index].to(device)), self.split.targets[index].to(device)
