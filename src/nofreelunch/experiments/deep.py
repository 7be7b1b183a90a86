"""What the deep figures are made of: for each data set its images and three trained models, where they are there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from nofreelunch.data import Dataset, load_data, present
from nofreelunch.drawing import COLOUR
from nofreelunch.experiments.base import Finding, beyond
from nofreelunch.experiments.batches import chosen_images
from nofreelunch.experiments.paper_values import TABLE_2_EPS
from nofreelunch.experiments.retrained import trained
from nofreelunch.models import load_model, zoo_card, zoo_digest, zoo_names
from nofreelunch.threats import THREATS
from nofreelunch.types import Images, Labels
from nofreelunch.workspace import Workspace

ROLES = ("standard", "linf", "l2")
"""How a model was trained; the order of rows in every figure."""

NORMS = {norm: THREATS[norm].symbol for norm in ROLES[1:]}
"""How the paper's norms are written."""
TITLES = {"standard": "standard", **{norm: f"{symbol}-trained" for norm, symbol in NORMS.items()}}
COLOURS = {"standard": COLOUR["standard"], "linf": COLOUR["robust"], "l2": COLOUR["l2"]}
PIXEL_SCALE = {"cifar10": 255}
"""What the paper's eps of a data set are fractions of, where that is not 1."""

DATA_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "restricted-imagenet": "Restricted ImageNet"}

_SAMPLES = {"cifar10": "cifar10-sample"}  # what lies in the package of a data set that does not
_YOURS = ("restricted-imagenet",)  # data sets that nobody may hand on: image files, which are read at any size

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DeepConfig:
    """What the config of every deep figure says.

    Args:
        datasets: names in the paper's tables; those whose models are there are shown.
        n: number of test images measured, equally many of each class.
        retrain: preset of `training.presets` by which the models are trained here; "" takes those of the package.
        seed: chooses the images, and is that of trainings.
    """

    n: int
    datasets: tuple[str, ...] = tuple(DATA_TITLES)
    retrain: str = ""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A data set and its models.

    Attributes:
        name: of the data set in the paper's tables, e.g. "cifar10".
        data: the data set, or the sample of it that lies in the package.
        models: by role, on `device`; the standard one and at least one other.
        device: where models and images are.
    """

    name: str
    data: Dataset
    models: Mapping[str, nn.Module]
    device: str = "cpu"

    @property
    def robust(self) -> tuple[str, ...]:
        """The roles of its adversarially trained models."""
        return tuple(role for role in ROLES[1:] if role in self.models)

    def judges(self, role: str) -> tuple[str, ...]:
        """The robust models that had no part in what the model of this role makes."""
        return tuple(other for other in self.robust if other != role)

    def test_images(self, n: int, seed: int) -> tuple[Images, Labels]:
        """n test images (all, if there are fewer) and their classes, as `balanced` chooses them."""
        return chosen_images(self.data, n, seed, self.device)


def zoo_name(dataset: str, role: str) -> str:
    """The name of the model that was trained at Table 2's eps.

    >>> zoo_name("cifar10", "linf")
    'cifar10-linf-4'
    """
    if role == "standard":
        return f"{dataset}-standard"
    return f"{dataset}-{role}-{TABLE_2_EPS[dataset, role] * PIXEL_SCALE.get(dataset, 1):g}"


def exhibits(choice: DeepConfig, workspace: Workspace) -> tuple[tuple[Exhibit, ...], tuple[str, ...]]:
    """Those of the data sets that can be shown, and the names of the models that are not there.

    A data set is shown if its images, its standard and at least one robust model are there. Without a model of the
    package its images are not looked at.
    """
    found, missing = available(choice, workspace)
    shown: list[Exhibit] = []
    for name, data in found.items():
        models = _retrained(choice, data, workspace) if choice.retrain else _shipped(name)
        if "standard" in models and len(models) > 1:
            on_device = {role: model.to(workspace.device) for role, model in models.items()}
            shown.append(Exhibit(name, data, on_device, workspace.device))
    return tuple(shown), missing


def available(choice: DeepConfig, workspace: Workspace) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The data sets whose images are there, and the names of the models, and in words the images, that are not."""
    found, missing = dict[str, Dataset](), list[str]()
    for name in choice.datasets:
        if not choice.retrain:
            missing += [model for model in (zoo_name(name, role) for role in ROLES) if model not in zoo_names()]
        if (data := _data_of(name, choice, workspace)) is not None:
            found[name] = data
        elif choice.retrain or _zoo(name):
            missing.append(f"the images of {name}")
    return found, tuple(missing)


def _data_of(name: str, choice: DeepConfig, workspace: Workspace) -> Dataset | None:
    """The images for a data set's models, at their size; None where there are no models, or no images and no sample."""
    models = _zoo(name)
    if not choice.retrain:
        return data_here(name, workspace.data_root, zoo_card(models[0]).shape[-1]) if models else None
    here = name not in _YOURS or name in present(workspace.data_root)
    return load_data(name, workspace.data_root) if here else None


def _zoo(name: str) -> tuple[str, ...]:
    """The names of the package's models of a data set."""
    return tuple(model for model in zoo_names() if model.startswith(f"{name}-"))


def _retrained(choice: DeepConfig, data: Dataset, workspace: Workspace) -> dict[str, nn.Module]:
    """By role, the models of a preset at Table 2's eps."""
    threats = {role: THREATS[role](TABLE_2_EPS[data.name, role]) for role in ROLES[1:]}
    return {role: trained(choice.retrain, data, threats.get(role), choice.seed, workspace) for role in ROLES}


def _shipped(name: str) -> dict[str, nn.Module]:
    """By role, the models that the package has for a data set."""
    names = {role: zoo_name(name, role) for role in ROLES}
    return {role: load_model(f"zoo:{model}") for role, model in names.items() if model in zoo_names()}


def inputs(choice: DeepConfig, workspace: Workspace) -> dict[str, str]:
    """Digests of the package's models, and of the data that goes with them: what a deep figure depends on."""
    models = {} if choice.retrain else {name: zoo_digest(name) for name in zoo_names()}
    return models | {name: data.digest for name, data in available(choice, workspace)[0].items()}


def data_here(name: str, root: Path | None, size: int | None) -> Dataset | None:
    """The data set, image files at a size; where it is not on this machine the package's sample of it, or None."""
    if name in present(root):
        return load_data(name, root, size if name in _YOURS else None)
    return load_data(_SAMPLES[name], root) if name in _SAMPLES else None


def in_order(found: Mapping[str, T]) -> list[tuple[str, T]]:
    """The items of a result, by data set or by role, in the order of the paper: results read back have lost theirs."""
    order = [*DATA_TITLES, *ROLES]
    return sorted(found.items(), key=lambda item: order.index(item[0]))


def samples(shown: Iterable[Dataset]) -> tuple[str, ...]:
    """Those that are only samples."""
    return tuple(sorted({data.name for data in shown} & set(_SAMPLES.values())))


def absences(missing: tuple[str, ...], samples: tuple[str, ...]) -> Iterator[Finding]:
    """Findings that say what is not in a figure, or made from less than the whole data set."""
    if missing:
        claim = "Some models or images of this figure are not there; it is drawn without them."
        yield beyond(claim, ", ".join(missing))
    if samples:
        claim = "A data set is not on this machine; its images are a sample that lies in the package."
        yield beyond(claim, ", ".join(samples), note="give --data-root a folder that holds the data set")
