"""What may be named on a command line, known before torch is: who misspells a name need not wait for it.

What the names stand for is in the tables of the parts, which hold the same names (a test compares them).
"""

import os
from pathlib import Path

from nofreelunch.errors import InputError, check_known, unknown

DATA_SETS = (
    "mnist", "mnist-5v7", "cifar10", "cifar10-sample", "restricted-imagenet", "restricted-imagenet:release",
)  # fmt: skip
FORMATS = ("npz", "folder")
"""Kinds of the user's own data; written KIND:PATH."""
PACKED = ".safetensors"
"""How a file that `nofreelunch data pack` made ends; models end likewise."""
ARCHITECTURES = ("linear", "mnist-cnn", "mnist-cnn-small", "cifar-resnet", "preact-resnet18", "resnet50")
EXPERIMENTS = (
    "figure-1", "theorem-2.1", "theorem-2.2", "transferability", "figure-2", "table-4", "figure-3", "figure-4",
    "figure-5", "figure-6", "figure-7", "figure-8",
)  # fmt: skip
OWN_CODE = "python:"
"""How the name of a function of the user's begins."""

_ZOO = Path(__file__).parent / "models" / "zoo"


def zoo_names() -> tuple[str, ...]:
    """The names of the models that the package ships."""
    return tuple(sorted(path.stem for path in _ZOO.glob("*.safetensors")))


def check_data(spec: str) -> None:
    """Refuse the name of no data set, and a file or folder that is not there."""
    kind, _, path = spec.partition(":")
    if spec in DATA_SETS:
        return
    if kind in FORMATS and path:
        _check_there(path)
    elif spec.endswith(PACKED):
        _check_there(spec)
    else:
        looks_like = "folder" if os.path.isdir(spec) else Path(spec).suffix[1:]
        own = (f"{kind}:{spec if kind == looks_like else 'PATH'}" for kind in FORMATS)
        raise unknown("data set", spec, [*DATA_SETS, *own, f"PATH{PACKED}"])


def check_model(spec: str) -> None:
    """Refuse the name of no model of the package, and a model's file that is not there."""
    kind, _, name = spec.partition(":")
    if kind == "zoo":
        check_known("zoo model", name, zoo_names())
    elif kind == spec and spec.endswith((".safetensors", ".onnx")):
        _check_there(spec)


def is_own_code(arch: object) -> bool:
    """Whether the network comes from a function of the user's, "python:MODULE:FACTORY", and not from a table."""
    return isinstance(arch, str) and arch.startswith(OWN_CODE)


def check_architecture(name: object) -> None:
    """Refuse the name of no architecture; a function of the user's is looked for when it is made."""
    if not is_own_code(name):
        check_known("architecture", name, [*ARCHITECTURES, f"{OWN_CODE}MODULE:FACTORY"])


def _check_there(path: str) -> None:
    if not os.path.exists(os.path.expanduser(path)):
        raise InputError(f"cannot read {path}: No such file or directory")
