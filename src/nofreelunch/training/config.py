"""What is trained, and how: a frozen value that identifies the result and is checked when it is made."""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

from nofreelunch import threats
from nofreelunch.attacks import ATTACKS, PGD
from nofreelunch.attacks.pgd import caution
from nofreelunch.errors import InputError, check_count, check_known, check_number, check_seed
from nofreelunch.models.fast import Precision
from nofreelunch.models.registry import architecture
from nofreelunch.threats import Threat, check_box_of_images, check_threat
from nofreelunch.training.augment import AUGMENTS
from nofreelunch.training.optimisers import OPTIMISERS
from nofreelunch.training.recipes import RECIPES, Recipe
from nofreelunch.training.schedules import SCHEDULES
from nofreelunch.workspace import digest, to_json

_DEFAULT_ATTACK = "pgd-10"
_NO_THREAT = "standard"
_INFINITY = float("inf")


OF_A_THREAT = ("recipe", "attack", "step_size", "eps_warmup")
"""Settings that mean nothing without one."""


@dataclass(frozen=True)
class TrainConfig:
    """The setting of one training run; the data come beside it.

    Args:
        arch: name in `models.ARCHITECTURES`, or "python:MODULE:FACTORY": a function of yours that returns the network.
        start: a saved model, zoo:NAME or torchvision:NAME of that architecture, whose weights training starts from, all
            but those of its last layer; "" starts from random weights.
        threat: what the model shall withstand; None for standard training.
        recipe: name in `RECIPES`; without a threat all of them are standard training.
        attack: name of a PGD recipe in `ATTACKS`, for recipes that take an attack; None is "pgd-10".
        step_size: of the attack, in the unit of eps, at the full eps; None is the attack's own.
        epochs: passes over the training images that are not held out; may be a fraction.
        batch_size: images per update, over all devices.
        optimiser: name in `OPTIMISERS`.
        lr: the peak learning rate.
        schedule: name in `SCHEDULES`.
        weight_decay: of matrices and filters.
        ema: decay of the running average of the weights, which is then what is evaluated and returned; 0 for none.
        eps_warmup: share of the run in which eps rises linearly from 0.
        augment: name in `AUGMENTS`.
        precision: of the update; weights stay in float32.
        attack_precision: of the network that the attack differentiates.
        accumulate: number of equal parts that a batch is worked off in, to save memory.
        holdout: share of the training images held out to choose the epoch by; 0: the last weights are returned.
        seed: of initial weights, order, augmentation and attacks.

    Raises:
        InputError: if a value is not allowed, or two do not go together.
    """

    arch: str = "mnist-cnn"
    start: str = ""
    threat: Threat | None = None
    recipe: str = "pgd-at"
    attack: str | None = None
    step_size: float | None = None
    epochs: float = 4.0
    batch_size: int = 128
    optimiser: str = "adam"
    lr: float = 2.5e-3
    schedule: str = "one-cycle"
    weight_decay: float = 0.0
    ema: float = 0.0
    eps_warmup: float = 0.0
    augment: str = "none"
    precision: str = "float32"
    attack_precision: str = "bfloat16"
    accumulate: int = 1
    holdout: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_names()
        self._check_numbers()
        self._check_threat()

    @property
    def method(self) -> Recipe:
        """The recipe that is followed."""
        return RECIPES[self.recipe if self.threat else _NO_THREAT]

    def attack_on(self, threat: Threat) -> PGD:
        """The training attack for the threat: the config's own, or the same one at a smaller eps.

        Raises:
            InputError: if the attack's name does not stand for a PGD.
        """
        attack = self._usual(threat)
        if self.step_size is None or self.threat is None:
            return attack
        share = threat.eps / self.threat.eps if self.threat.eps else 1.0
        with ExitStack() as quiet:
            if self.cautions:  # they are told once for all steps
                quiet.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            return dataclasses.replace(attack, step_size=self.step_size * share)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Settings that are legal but probably mistakes, a sentence each."""
        if self.threat is None or self.step_size is None or not self.method.takes_attack:
            return ()
        told = caution(self.threat, self._usual(self.threat).steps, self.step_size)
        return (told,) if told else ()

    def _usual(self, threat: Threat) -> PGD:
        """The attack of that name, with its own step."""
        name = self.attack or _DEFAULT_ATTACK
        attack = ATTACKS[name](threat)
        if not isinstance(attack, PGD):
            raise InputError(f'attack "{name}" cannot be trained against; take one of the pgd-... attacks')
        return attack

    def changed(self, settings: Mapping[str, Any]) -> "TrainConfig":
        """With other settings; a step goes with the attack that it was made for, and an attack with its recipe.

        Raises:
            InputError: if a value is not allowed.
        """
        name = settings.get("recipe", self.recipe)
        recipe = RECIPES.get(name) if isinstance(name, str) else None
        gone: dict[str, None] = {"step_size": None} if "attack" in settings else {}
        if recipe is not None and not recipe.takes_attack:
            gone = {"attack": None, "step_size": None}
        return dataclasses.replace(self, **gone | dict(settings))

    @staticmethod
    def from_plain(values: dict[str, Any]) -> "TrainConfig":
        """The config that was written as JSON, or is `plain`.

        Raises:
            InputError: if a name is no field's, or a value is not allowed.
        """
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        for name in values:
            check_known("setting", name, known)
        ball = values.get("threat")
        return TrainConfig(**values | {"threat": None if ball is None else threats.from_plain(ball)})

    @property
    def digest(self) -> str:
        """SHA-256 of all settings."""
        return digest(to_json(self))

    def _check_names(self) -> None:
        tables: dict[str, Collection[str]] = {
            "recipe": RECIPES,
            "optimiser": OPTIMISERS,
            "schedule": SCHEDULES,
            "augment": AUGMENTS,
            "precision": get_args(Precision),
            "attack_precision": get_args(Precision),
        }
        architecture(self.arch)
        for field, known in tables.items():
            check_known(field.replace("_", " "), getattr(self, field), known)
        if self.attack is not None:
            check_known("attack", self.attack, ATTACKS)
        if not isinstance(self.start, str):
            raise InputError(f'start must be the name of a model, or "" for none, got {self.start!r}')

    def _check_numbers(self) -> None:
        numbers = {
            "epochs": check_number("epochs", self.epochs, 0, _INFINITY, open_low=True),
            "lr": check_number("lr", self.lr, 0, _INFINITY, open_low=True),
            "weight_decay": check_number("weight_decay", self.weight_decay, 0, _INFINITY),
            "ema": check_number("ema", self.ema, 0, 1, open_high=True),
            "eps_warmup": check_number("eps_warmup", self.eps_warmup, 0, 1),
            "holdout": check_number("holdout", self.holdout, 0, 1, open_high=True),
        }
        if self.step_size is not None:
            numbers["step_size"] = check_number("step_size", self.step_size, 0, _INFINITY, open_low=True)
        for name, number in numbers.items():  # 6 and 6.0 are one setting, and have one digest
            object.__setattr__(self, name, number)
        check_count("batch_size", self.batch_size)
        check_count("accumulate", self.accumulate)
        check_seed(self.seed)
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size {self.batch_size} cannot be cut into accumulate={self.accumulate} equal parts"
            )

    def _check_threat(self) -> None:
        if self.threat is None:
            given = {"attack": self.attack, "step_size": self.step_size, "eps_warmup": self.eps_warmup or None}
            for name, value in given.items():
                if value is not None:
                    raise InputError(f"{name}={value} means nothing without a threat; give one, such as Linf(8 / 255)")
            return
        check_box_of_images(check_threat(self.threat))
        if self.recipe == _NO_THREAT:
            raise InputError('recipe "standard" has no threat; leave the threat away, or take "pgd-at"')
        if self.method.takes_attack:
            self.attack_on(self.threat)
        elif self.attack is not None or self.step_size is not None:
            raise InputError(
                f'recipe "{self.recipe}" has its own attack; leave attack and step_size away, or take "pgd-at"'
            )


def differences(saved: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    """One phrase for each setting in which two configs (as from `plain`) differ."""
    names = sorted(saved.keys() | now.keys())
    return tuple(
        f"{name}: saved {saved.get(name)}, now {now.get(name)}" for name in names if saved.get(name) != now.get(name)
    )
