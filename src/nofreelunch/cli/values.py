"""Types of options: numbers as people write them, and options that may be left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from nofreelunch.errors import InputError, parse_number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f'"{text}" is not a whole number') from None


def _read(parse: Callable[[str], Any], metavar: str) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """How an option of one number is read, and shown in the help."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: parse(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value) if value is None else f"{value:g}"],
    )


Number = Annotated[float, _read(parse_number, "NUMBER")]
"""A float option; fractions are understood."""

OptionalNumber = Annotated[float | None, _read(parse_number, "NUMBER")]
OptionalInt = Annotated[int | None, _read(_whole, "INT")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
OptionalPair = Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="A B")]
"""Options that may be left out; the metavar spares the reader the parser's union syntax."""

DataRoot = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="PATH", help="Folder of data sets that are not in the package (default: the variable NOFREELUNCH_DATA)."
    ),
]
Device = Annotated[str, tyro.conf.arg(help="Where the work is done: auto, cpu, cuda, or cuda:1.")]
"""Options of several commands."""


def data_root_words(root: Path | None) -> list[str]:
    """The option `--data-root`, if it was given, as on a command line."""
    return [] if root is None else [f"--data-root={root}"]
