"""Types of options: numbers as people write them, and options that may be left out."""

from pathlib import Path
from typing import Annotated

import tyro

from nofreelunch.errors import parse_number

Number = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda texts: parse_number(texts[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [f"{value:g}"],
    ),
]
"""A float option; fractions are understood."""

OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
OptionalPair = Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="A B")]
"""Options that may be left out; the metavar spares the reader the parser's union syntax."""
