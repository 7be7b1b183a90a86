"""Bad input, answered once, at the door, in one sentence.

A message names the argument, the value it got, what is allowed and the way out. The command line prints it and exits
with 2.
"""

import difflib
import math
import operator
import re
from collections.abc import Collection, Iterable
from fractions import Fraction
from importlib import import_module
from typing import Any

ADDRESS = re.compile(" at 0x[0-9a-f]+")
"""Where an object lies in memory, as its words say it: another place in every process."""
SEEDS = 2**63
"""Seeds are below this."""


class InputError(ValueError):
    """What the caller gave cannot be used; the message says why and what to give instead."""


class RunError(RuntimeError):
    """The run itself failed (disk full, loss not finite, device lost); the command line exits with 1."""


def reason(error: BaseException) -> str:
    """What an error says, on one line, not at length and without addresses; the name of its type if it says nothing.

    >>> reason(ValueError("no such    file")), reason(ValueError())
    ('no such file', 'ValueError')
    """
    return " ".join(ADDRESS.sub("", str(error)).split())[:240] or type(error).__name__


def brief(value: object) -> str:
    """A value in a sentence: on one line, and not at length.

    >>> brief([1, 2]), len(brief("x" * 1000))
    ('[1, 2]', 80)
    """
    try:
        return " ".join(f"{value!r:.200}".split())[:80]
    except Exception:  # any code may run in a repr, and fail in any way
        return f"an instance of {type(value).__name__}"


def listed(names: Iterable[str], word: str) -> str:
    """Names in a sentence.

    >>> listed(["fgsm", "pgd-40", "apgd"], "or")
    'fgsm, pgd-40 or apgd'
    """
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is in no table: lists the known names, the nearest first.

    >>> str(unknown("attack", "pdg-40", ["fgsm", "pgd-40"]))
    'unknown attack "pdg-40"; did you mean "pgd-40"? known: fgsm, pgd-40'
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ";"
    return InputError(
        f'unknown {what} "{name if isinstance(name, str) else brief(name)}"{hint} known: {", ".join(names)}'
    )


def check_known(what: str, name: object, known: Collection[str]) -> None:
    """Refuse, as `unknown`, a name that is in no table."""
    if not isinstance(name, str) or name not in known:
        raise unknown(what, name, known)


def parse_number(text: str | float) -> float:
    """A finite number from a number, "0.3", "1e-3" or a fraction, "8/255".

    Raises:
        InputError: if it is none of these.

    >>> round(parse_number("8/255"), 5)
    0.03137
    """
    try:
        number = float(Fraction(text)) if isinstance(text, str) and "/" in text else float(text)
        if math.isfinite(number) and not isinstance(text, bool):
            return number
        raise ValueError
    except (ValueError, TypeError, ArithmeticError):
        raise InputError(f'"{text}" is not a number; write it like 0.3, 1e-3 or 8/255') from None


def check_number(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """`value` as a float, if it is finite and in the range.

    Args:
        name: the argument's name, for the message.
        value: what the caller gave.
        low: smallest allowed value; `open_low` excludes it.
        high: largest allowed value; `open_high` excludes it. May be infinite.

    Raises:
        InputError: otherwise, for texts and truth values too; the message names the value and the range.
    """
    allowed = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or math.isinf(high) else ']'}"
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError("float() would take it, those who count on a number would not")
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        way = "; write it without quotes" if isinstance(value, str) and value[:1].isdigit() else ""
        raise InputError(f"{name} must be a number in {allowed}, got {value!r}{way}") from None
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (math.isfinite(number) and above and below):
        raise InputError(f"{name} must be in {allowed}, got {value!r}")
    return number


def check_seed(seed: Any) -> int:
    """`seed` if random generators take it: a whole number from 0 up to 2^63; an `InputError` otherwise."""
    if (number := check_count("seed", seed, low=0)) >= SEEDS:
        raise InputError(f"seed must be below 2^63, got {seed!r}")
    return number


def check_count(name: str, value: Any, low: int = 1) -> int:
    """`value` if it is a whole number of at least `low`; an `InputError` otherwise."""
    try:
        number = low - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = low - 1
    if number < low:
        raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return number


def needed(module: str, what: str, extra: str = "") -> Any:
    """A module of an optional package.

    Args:
        what: needs it, for the message.
        extra: of this package, that brings it; "" if its package is installed by its own name.

    Raises:
        InputError: if it is not installed, and says how to install it; or if it is, and cannot be loaded.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        if getattr(error, "name", None) not in (package, module):
            raise InputError(f"{what} needs the package {package}, which cannot be loaded: {reason(error)}") from error
        way = f"'nofreelunch[{extra}]'" if extra else package
        raise InputError(f"{what} needs the package {package}; install it with: pip install {way}") from None
