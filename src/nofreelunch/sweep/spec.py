"""A sweep as people write it: a TOML file. It is read as data; nothing in it is executed."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nofreelunch.errors import InputError, check_known, check_number, unknown
from nofreelunch.files import read_bytes
from nofreelunch.sweep.grid import expand, varied
from nofreelunch.sweep.point import Point

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SECTIONS = ("preset", "train", "grid", "evaluate", "run")
_LARGEST = 2**20  # bytes; no sweep of ours comes near


@dataclass(frozen=True)
class Resources:
    """What a point takes while it runs, and how often its state is kept.

    Args:
        cpus: cores; may be a fraction. On Ray only.
        gpus: likewise: 0.25 lets four points share a GPU.
        save_seconds: the state of a training is saved this often, and after each epoch.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "save_seconds"):
            check_number(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True)
class Spec:
    """A sweep.

    Args:
        points: each once.
        varied: the settings in which they differ.
        needs: of each.
    """

    points: tuple[Point, ...]
    varied: tuple[str, ...]
    needs: Resources


def names() -> tuple[str, ...]:
    """The sweeps that lie in the package."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in files("nofreelunch").joinpath("sweeps").iterdir()))


def read_spec(spec: str) -> Spec:
    """The sweep in a file, or of a name in the package.

    Raises:
        InputError: if there is none, or anything in it is not as it should be; nothing has been computed then.
    """
    content = _content(spec)
    try:
        sections = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise InputError(f"{spec} is not text in UTF-8; write it in TOML") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{spec} is not TOML: {error}") from None
    try:
        return _spec(sections)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None


def _content(spec: str) -> bytes:
    if spec in names():
        return files("nofreelunch").joinpath("sweeps", f"{spec}.toml").read_bytes()
    path = Path(os.path.expanduser(spec))
    if not os.path.isfile(path):
        if path.suffix == ".toml":
            raise InputError(
                f"there is no file {spec}; give a TOML file, or one of the package's: {', '.join(names())}"
            )
        raise unknown("sweep", spec, [*names(), "FILE.toml"])
    return read_bytes(path, _LARGEST, "a sweep")


def _spec(sections: Mapping[str, Any]) -> Spec:
    for section in sections:
        check_known("section", section, _SECTIONS)
    preset = sections.get("preset", "")
    if not isinstance(preset, str):
        raise InputError(f'preset must be a name such as "laptop", got {preset!r}')
    if "grid" not in sections:
        raise InputError("there is no [grid]; give lists of settings, such as eps = [0, 0.1, 0.2]")
    blocks = _blocks(sections["grid"])
    points = expand(preset, _section("train", sections), blocks, _section("evaluate", sections))
    return Spec(points, varied(points, blocks), _resources(_section("run", sections)))


def _section(name: str, sections: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a section, none if it is not there."""
    found = sections.get(name, {})
    if not isinstance(found, dict):
        raise InputError(f"{name} must be a section, [{name}], got {found!r}")
    return found


def _blocks(grid: Any) -> list[Mapping[str, Any]]:
    """The section [grid], or each section [[grid]]."""
    blocks = grid if isinstance(grid, list) else [grid]
    if not blocks or not all(isinstance(block, dict) and block for block in blocks):
        raise InputError("[grid] is empty; give lists of settings, such as eps = [0, 0.1, 0.2]")
    return blocks


def _resources(values: Mapping[str, Any]) -> Resources:
    for name in values:
        check_known("setting of [run]", name, ("cpus", "gpus", "save_seconds"))
    return Resources(**values)
