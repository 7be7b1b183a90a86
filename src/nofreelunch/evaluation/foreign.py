"""Attacks that are not ours, as attacks of ours: functions of the user's, and those of other libraries.

Whatever such an attack returns is judged like our own points: what lies outside ball or box by more than rounding is
dropped and counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from nofreelunch.attacks import Attack
from nofreelunch.attacks.door import out_of_memory
from nofreelunch.errors import InputError, check_known, needed, unknown
from nofreelunch.rng import Streams, seeded
from nofreelunch.threats import Threat
from nofreelunch.types import Model


class _Module(nn.Module):
    """A model as the `nn.Module` that other libraries want."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = [model]  # in a list, so that its parameters stay out of reach

    def forward(self, x: Tensor) -> Tensor:
        return self.model[0](x)


@dataclass(frozen=True)
class LibraryAttack:
    """An attack of another library.

    Args:
        threat: its norm is the attack's own; the radius is handed over, and the box to libraries that take one.
        kind: the attack's class.
        call: runs it: (class, model, x, y, threat) -> x_adv.
    """

    threat: Threat
    kind: Callable[..., Any]
    call: Callable[[Callable[..., Any], nn.Module, Tensor, Tensor, Threat], Tensor]

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs. Such attacks draw global random numbers, here seeded from the first example's stream."""
        with seeded(_seed(rng, x)):
            return self.call(self.kind, _Module(model).eval(), x, y, self.threat)


@dataclass(frozen=True)
class Checked:
    """An attack of the user's or of a library: it gets an ordinary generator, and what it returns is looked at.

    Args:
        name: for messages.
        attack: called with model, x, y and a `torch.Generator`.
    """

    name: str
    attack: Attack

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | Streams) -> Tensor:
        """Adversarial inputs.

        Raises:
            InputError: if the attack fails, or returns anything but a tensor like x.
        """
        try:
            z: object = self.attack(model, x, y, torch.Generator(x.device).manual_seed(_seed(rng, x)))
        except (Exception, SystemExit) as error:  # the user's code may raise anything; it is the input here
            if out_of_memory(error):
                raise
            raise InputError(f'attack "{self.name}" failed: {type(error).__name__}: {error}') from error
        if not isinstance(z, Tensor) or z.shape != x.shape:
            found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise InputError(f'attack "{self.name}" must return a tensor of shape {tuple(x.shape)}, got {found}')
        return z


def _seed(rng: torch.Generator | Streams, x: Tensor) -> int:
    """Of a batch, from the stream of its first example."""
    return int(Streams.of(rng, len(x), x.device).integers(2**31)[0])


def checked(name: str, attack: Attack) -> Attack:
    """The attack, behind `Checked` if it is not one of the package."""
    return attack if type(attack).__module__.startswith("nofreelunch.") else Checked(name, attack)


def _foolbox(kind: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    wrapped = import_module("foolbox").PyTorchModel(model, bounds=threat.box, device=x.device)
    found: Tensor = kind()(wrapped, x, y, epsilons=threat.eps)[1]
    return found


def _torchattacks(kind: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    found: Tensor = kind(model, eps=threat.eps)(x, y)
    return found


LIBRARIES = {"foolbox": ("foolbox.attacks", _foolbox), "torchattacks": ("torchattacks", _torchattacks)}


def foreign(spec: str, threat: Threat) -> Attack:
    """The attack that "LIBRARY:CLASS" names, with the library's own settings.

    Raises:
        InputError: if the library is not known or not installed, or has no such attack.
    """
    library, _, name = spec.partition(":")
    check_known("attack library", library, LIBRARIES)
    module, call = LIBRARIES[library]
    kinds = vars(needed(module, f"attack {spec}"))
    if not callable(kinds.get(name)):
        raise unknown(f"{library} attack", name, (key for key, value in kinds.items() if isinstance(value, type)))
    return Checked(spec, LibraryAttack(threat, kinds[name], call))
