"""The paper's theorems, tables and figures, one file each; `EXPERIMENTS` names them (see registry.py).

It is imported when first asked for: `nofreelunch --help` reads a config's types and waits for no numeric library.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        return import_module("nofreelunch.experiments.registry").EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
