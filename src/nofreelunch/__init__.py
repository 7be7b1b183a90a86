"""nofreelunch: adversarial robustness, exact where it can be and honest where it cannot.

After "There Is No Free Lunch In Adversarial Robustness (But There Are Unexpected Benefits)", Tsipras et al., 2018.
Names are imported when first used, so that `import nofreelunch` and `nofreelunch --help` do not wait for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "InputError": "errors",
    "load_data": "data",
    "fit_linear": "training.linear",
    "load_model": "models",
    "save_model": "models",
    "fast": "models",
    "train": "training",
    "TrainConfig": "training",
    "Linf": "threats",
    "L2": "threats",
    "threat": "threats",
    "PGD": "attacks",
    "fgsm": "attacks",
    "APGD": "attacks",
    "FAB": "attacks",
    "Square": "attacks",
    "ExactLinear": "attacks",
    "restarts": "attacks",
    "WorstOf": "attacks",
    "ATTACKS": "attacks",
    "evaluate": "evaluation",
}
_PARTS = ("data", "theory", "threats", "attacks", "features", "models", "evaluation", "training", "experiments")

__all__ = ["__version__", *_MODULE_OF, *_PARTS]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
