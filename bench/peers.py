"""Projected gradient descent of other packages, each called as its manual says."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

Attack: TypeAlias = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Setting:
    """What every package is asked for; random start, one restart.

    Args:
        norm: "linf" or "l2".
        eps: radius.
        step_size: of each step.
        steps: how many.
    """

    norm: str
    eps: float
    step_size: float
    steps: int


def torchattacks(model: nn.Module, setting: Setting) -> Attack:
    """PGD and PGDL2."""
    import torchattacks as package

    kind = {"linf": package.PGD, "l2": package.PGDL2}[setting.norm]
    return kind(model, eps=setting.eps, alpha=setting.step_size, steps=setting.steps, random_start=True)


def foolbox(model: nn.Module, setting: Setting) -> Attack:
    """LinfPGD and L2PGD."""
    import foolbox as package

    kind = {"linf": package.attacks.LinfPGD, "l2": package.attacks.L2PGD}[setting.norm]
    attack = kind(abs_stepsize=setting.step_size, steps=setting.steps, random_start=True)
    bounded = package.PyTorchModel(model, bounds=(0, 1))
    return lambda x, y: attack.run(bounded, x, package.criteria.Misclassification(y), epsilon=setting.eps)


def adv_lib(model: nn.Module, setting: Setting) -> Attack:
    """pgd_linf; the package has no PGD in l_2."""
    from adv_lib.attacks import pgd_linf

    if setting.norm != "linf":
        raise NotImplementedError
    options = {"steps": setting.steps, "absolute_step_size": setting.step_size}
    return lambda x, y: pgd_linf(model, x, y, setting.eps, **options)


def art(model: nn.Module, setting: Setting) -> Attack:
    """ProjectedGradientDescentPyTorch, from and to numpy arrays."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    def attack(x: Tensor, y: Tensor) -> object:
        device = "gpu" if x.is_cuda else "cpu"
        shape, box = tuple(x.shape[1:]), (0.0, 1.0)
        classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, clip_values=box, device_type=device)
        ascent = ProjectedGradientDescentPyTorch(
            classifier,
            norm={"linf": np.inf, "l2": 2}[setting.norm],
            eps=setting.eps,
            eps_step=setting.step_size,
            max_iter=setting.steps,
            num_random_init=1,
            batch_size=len(x),
            verbose=False,
        )
        return ascent.generate(x.cpu().numpy(), y.cpu().numpy())

    return attack


PEERS: dict[str, Callable[[nn.Module, Setting], Attack]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv-lib": adv_lib,
    "ART": art,
}


def present(model: nn.Module, setting: Setting) -> tuple[dict[str, Attack], dict[str, str]]:
    """The peers' attacks on copies of the model, and why some are not there."""
    attacks: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, make in PEERS.items():
        try:
            attacks[name] = make(copy.deepcopy(model), setting)
        except ImportError as error:
            absent[name] = f"not installed ({error.name})"
        except NotImplementedError:
            absent[name] = f"has no PGD in {setting.norm}"
    return attacks, absent
