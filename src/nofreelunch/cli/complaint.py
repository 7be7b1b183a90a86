"""What is wrong with the words of a command line, in one sentence, from the parser's framed complaint."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from itertools import dropwhile, takewhile
from typing import Any

import tyro

from nofreelunch.errors import listed, unknown

EXAMPLES = {
    "train": "nofreelunch train --data mnist --threat linf --eps 0.3",
    "evaluate": "nofreelunch evaluate zoo:mnist-linf-0.3 --data mnist --threat linf --eps 0.3",
    "explain": "nofreelunch explain zoo:mnist-linf-0.3 --data mnist",
    "sweep": "nofreelunch sweep mnist-time --dry-run",
    "theory": "nofreelunch theory --d 1000 --eta 0.1265 --eps 0.253",
    "data": "nofreelunch data list",
}
"""Of the commands that need arguments."""

_ELSEWHERE = {
    "--norm": "--threat",
    "--model": "--arch",
    **dict.fromkeys(("--samples", "--num-samples", "--n-samples", "--examples", "--n-examples", "--images"), "--n"),
    "--checkpoint": "--weights",
    "--gpu": "--device",
    "--learning-rate": "--lr",
}
"""What other tools call some of the options, where the spelling does not tell."""


_NO_FRAME = str.maketrans(dict.fromkeys("│╭╮╰╯─", " "))


def sentence(box: str, arguments: Sequence[str], commands: Mapping[str, type[Any]]) -> str:
    """The complaint in one sentence: what is wrong, and the way out.

    Args:
        box: what the parser printed.
        commands: by name; their fields are the options.
    """
    first = _first(box)
    choice = re.search(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", first)
    if choice:
        return str(unknown(choice[2], choice[1], re.findall("'(.*?)'", choice[3])))
    form = re.search(r"Error parsing (--\S+): no type matching \{None\}\|\{(.*)\} could .* from \[(.*)\]", first)
    if form:
        like = re.search(rf"e\.g\. ({form[1]}[^.)]*)", " ".join(box.translate(_NO_FRAME).split()))
        wanted = f"{form[1]} takes {len(form[2].split())} values{f', such as {like[1]}' if like else ''}"
        return f"{wanted}; got {len(form[3].split(', '))}: {form[3]}"
    name = next((word for word in arguments if word in commands), "")
    if not name:
        return f"{first}; --help lists the options"
    meant = _meant(arguments, commands[name])
    if first.startswith("Missing from"):
        needed = listed(_needed(first, arguments, commands[name]), "and")
        return f"{name} needs {needed}; {meant or f'for example: {EXAMPLES[name]}'}"
    way = meant or f"nofreelunch {name} --help lists the options"
    lone = re.fullmatch(r"Missing value for argument '(.*)'\. Expected \d+ values?", first)
    if lone:
        return f"{name} needs {'a value after ' if lone[1][0] == '-' else 'its '}{lone[1]}; {way}"
    unrecognized = re.match("Unrecognized (or misplaced )?options: ", first)
    if not unrecognized:
        return first.removeprefix("Error parsing ")
    strange = re.sub(r" \(applied to .*?\)", "", first[unrecognized.end() :])
    if re.fullmatch(r"[\d.e/, -]+", strange) and "--eps" in arguments:
        way = "several radii are given one by one: --eps 0.1 --eps 0.2"
    return f"{name} has no use for {strange}; {way}"


def _first(box: str) -> str:
    """The first paragraph within the frame, on one line."""
    lines = [line.strip("│╭╮╰╯─|+ ").strip() for line in box.splitlines()[1:]]
    lines = [*dropwhile(lambda line: not line.strip("-"), lines)]  # of terminals without boxes, a rule
    return " ".join(" ".join(takewhile(lambda line: line.strip("-"), lines)).rstrip(". ").split())[:600]


def _needed(first: str, arguments: Sequence[str], command: type[Any]) -> list[str]:
    """What has no default and was not given: a positional argument, by its metavar, and options."""
    given = {word.partition("=")[0].replace("_", "-") for word in arguments}
    positional = re.match(r"Missing from [\w ]+: (?!--)(\S+)", first)
    options = (option for option, needed in _options(command).items() if needed and option not in given)
    return [*([positional[1]] if positional else []), *options]


def _meant(arguments: Sequence[str], command: type[Any]) -> str:
    """For the first of the arguments that is no option but like one, which; nothing if none is."""
    known = _options(command)
    flags = {f"--no-{option[2:]}" for option in known} | {"--help"}
    for word in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        if word.replace("_", "-") in known.keys() | flags:
            continue
        if word == "--model" and "--arch" not in known:
            return f'MODEL is written without "{word}"'
        alias = _ELSEWHERE.get(word, "")
        bare = {option[2:]: option for option in known}  # dashes are no likeness
        near = [alias] if alias in known else [bare[one] for one in get_close_matches(word[2:], bare, 1)]
        if near:
            return f'"{word}" is no option, did you mean "{near[0]}"?'
    return ""


def _options(command: type[Any]) -> dict[str, bool]:
    """Each option of a command, and whether it has no default."""
    return {
        f"--{each.name.replace('_', '-')}": each.default is MISSING
        for each in fields(command)
        if tyro.conf.Positional not in getattr(each.type, "__metadata__", ())
    }
