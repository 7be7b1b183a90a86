"""Types of options: numbers as people write them, and options that may be left out."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nofreelunch.errors import InputError, check_number, parse_number


def _whole(text: str) -> int:
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        if (number := float(text)).is_integer():  # 1e8
            return int(number)
    raise InputError(f'"{text}" is not a whole number')


def _read(parse: Callable[[str], Any], metavar: str) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """How an option of one number is read, and shown in the help."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: parse(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value) if value is None else f"{value:g}"],
    )


Whole = Annotated[int, _read(_whole, "INT")]
Number = Annotated[float, _read(parse_number, "NUMBER")]
"""Options of one number; fractions are understood, and 1e8 where it must be whole."""

OptionalNumber = Annotated[float | None, _read(parse_number, "NUMBER")]
OptionalInt = Annotated[int | None, _read(_whole, "INT")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
OptionalPair = Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="A B")]
"""Options that may be left out; the metavar spares the reader the parser's union syntax."""

Norm = Literal["linf", "l2"]
"""The names in `THREATS`, written here since they are needed before torch is."""

DataRoot = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="PATH", help="Folder of data sets that are not in the package (default: the variable NOFREELUNCH_DATA)."
    ),
]
Device = Annotated[str, tyro.conf.arg(help="Where the work is done: auto, cpu, cuda, or cuda:1.")]
"""Options of several commands."""


def check_radius(text: str) -> None:
    """Refuse what is no radius, before torch is loaded; whether images are so far apart is seen later."""
    check_number("eps", parse_number(text), 0, math.inf)


def data_root_words(root: Path | None) -> list[str]:
    """The option `--data-root`, if it was given, as on a command line."""
    return [] if root is None else [f"--data-root={root}"]
