"""The options of commands that are about a model, anybody's, on images."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nofreelunch.cli.values import DataRoot, Device, OptionalPath, OptionalText, Whole
from nofreelunch.errors import InputError, parse_number
from nofreelunch.names import check_data, check_model
from nofreelunch.workspace import find_device

if TYPE_CHECKING:
    from torch import nn

    from nofreelunch.data import Dataset
    from nofreelunch.models.declared import Declared


@dataclass(frozen=True, kw_only=True)
class OfModel:
    """A model, the data, what is said about how they go together, and where to work."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A .safetensors or .onnx file, zoo:NAME, torchvision:NAME, timm:NAME, hf:NAME_OR_DIR or
    python:package.module:factory."""
    data: str
    """Data set: see `nofreelunch data list`."""
    data_root: DataRoot = None
    weights: OptionalPath = None
    """File of weights for a torchvision:, timm: or python: model; it is never unpickled."""
    mean: OptionalText = None
    """Of a model that others made: subtracted from the pixels, one number or one per channel, e.g. 0.5,0.5,0.5."""
    std: OptionalText = None
    """Likewise: what they are then divided by."""
    range: Annotated[str | None, tyro.conf.arg(metavar="LOW..HIGH")] = None
    """Likewise: the range of its pixels before that, e.g. 0..255 or -1..1; default: 0..1."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="I,J,...")] = None
    """For each class of the data the index of the model's output, e.g. 5,7; default: 0,1,2 and so on."""
    device: Device = "auto"
    seed: Whole = 0
    """Of everything random."""

    def check_names(self) -> None:
        """Refuse, before torch is loaded, names of nothing and files that are not there."""
        check_data(self.data)
        check_model(self.model)

    def declared(self) -> "Declared":
        """What is said about the model's pixels and outputs."""
        from nofreelunch.models.declared import Declared

        low, dots, high = ("0..1" if self.range is None else self.range).partition("..")
        if not dots:
            raise InputError(f'--range "{self.range}" is not a range; write it like 0..255 or -1..1')
        mean, std, labels = (None if text is None else _numbers(text) for text in (self.mean, self.std, self.labels))
        if labels is not None and any(label != int(label) for label in labels):
            raise InputError(f"--labels must be whole numbers, got {self.labels}")
        ends = (parse_number(low), parse_number(high))
        return Declared(mean, std, ends, None if labels is None else tuple(map(int, labels)))

    def load_images(self) -> "Dataset":
        """The data, if every class of it has its output."""
        from nofreelunch.data import load_data

        data, labels = load_data(self.data, self.data_root), self.declared().labels
        if labels is not None and len(labels) != len(data.classes):
            raise InputError(f"--labels needs one index for each of the {len(data.classes)} classes of {self.data}")
        return data

    def load_model(self) -> "nn.Module":
        """The model, where it is to run."""
        from nofreelunch.models import load_model

        device = find_device(self.device)
        model = load_model(self.model, self.weights, self.declared())
        return model.to(device) if next(model.parameters(), None) is not None else model

    def check_outputs(self, model: "nn.Module", data: "Dataset") -> None:
        """Refuse a model with other classes than the data; what it answers otherwise is looked at where it is used."""
        import torch

        from nofreelunch.attacks.door import first_logits
        from nofreelunch.evaluation.subject import Subject

        x = data.test.images(torch.arange(min(2, len(data.test))))
        subject = Subject(model)
        x = x.to(subject.device)
        outputs = first_logits(subject.logits, x, data.test.targets[:0]).shape[1]
        if outputs != len(data.classes):
            named = ", ".join(data.classes[:3]) + (" ..." if len(data.classes) > 3 else "")
            raise InputError(
                f"{self.model} has {outputs} outputs, and {self.data} {len(data.classes)} classes ({named}); "
                "say which output each class is, such as --labels 0,1"
                + (", or name all classes in an array classes of the file" if self.data.startswith("npz:") else "")
            )

    def command(self, name: str, *options: str) -> str:
        """The command, with these options and with those given of the above that decide what comes out."""
        others = ("data_root", "weights", "mean", "std", "range", "labels", "seed")
        given: dict[str, Any] = {option: getattr(self, option) for option in others}
        words = [f"--{option}={value}" for option, value in given.items() if value is not None]
        return shlex.join(["nofreelunch", name, self.model, "--data", self.data, *options, *words])


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(parse_number(part) for part in text.split(","))
