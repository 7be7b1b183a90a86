"""From lists of settings to points: every combination, each checked before anything is computed."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nofreelunch.data.packed import read_packed
from nofreelunch.errors import InputError, check_known, parse_number
from nofreelunch.names import PACKED
from nofreelunch.sweep.point import Exam, Point
from nofreelunch.threats import THREATS, Linf, Threat, threat
from nofreelunch.training import TrainConfig
from nofreelunch.training.config import OF_A_THREAT
from nofreelunch.training.presets import preset

_MOST_POINTS = 10_000
_EXAM = ("protocol", "attack", "n", "seed", "threats")


def _kinds() -> dict[str, type]:
    """Setting -> str, float or int."""
    hints = get_type_hints(TrainConfig)
    kinds = {name: next(kind for kind in (str, float, int) if kind in (hint, *get_args(hint))) for name, hint in
             hints.items() if name != "threat"}  # fmt: skip
    return {"data": str, "threat": str, "eps": float, **kinds}


KINDS = _kinds()
"""What can be set and varied: the data set, the threat's norm and eps, and every other field of `TrainConfig`."""


def expand(
    scale: str, train: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], evaluate: Mapping[str, Any]
) -> tuple[Point, ...]:
    """The points of all blocks, in order, each once.

    Args:
        scale: of a preset that fills in what is not given; "" for the defaults of `TrainConfig`.
        train: settings of all points; a block's own go before them.
        blocks: setting -> list of values; all combinations are taken.
        evaluate: the fields of `Exam`.

    Raises:
        InputError: if anything is not as it should be.
    """
    fixed = {name: _value(name, value) for name, value in train.items()}
    axes = [{name: _values(name, values) for name, values in block.items()} for block in blocks]
    count = sum(math.prod(map(len, block.values())) for block in axes)
    if count > _MOST_POINTS:
        raise InputError(f"the grid has {count} points, at most {_MOST_POINTS} are taken; give shorter lists")
    exam = _exam(evaluate)
    combinations = (
        dict(zip(block, values, strict=True)) for block in axes for values in itertools.product(*block.values())
    )
    trained = dict.fromkeys(_training(scale, fixed | values) for values in combinations)
    for named in exam.threats if isinstance(exam.threats, Mapping) else ():
        check_known("data set of [evaluate.threats]", named, sorted({data for data, _ in trained}))
    return tuple(Point(data, config, exam.of(data, _within(data, config, trained))) for data, config in trained)


def _within(data: str, config: TrainConfig, others: Iterable[tuple[str, TrainConfig]]) -> tuple[Threat, ...]:
    """What a model was trained against; for a standard one the largest balls of the other models of its data set."""
    if config.threat is not None:
        return (config.threat,)
    balls = [other.threat for name, other in others if name == data and other.threat is not None]
    largest = {ball.norm: ball for ball in sorted(balls, key=lambda ball: ball.eps)}
    return tuple(largest.values()) or (Linf(0.0),)


def varied(points: Sequence[Point], blocks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The settings of the blocks in which the points differ; those of a threat, among the points that have one."""
    all_of_them = [point.settings for point in points]
    having = [point.settings for point in points if point.config.threat] or all_of_them[:1]
    settings = {name: having if name in ("threat", *OF_A_THREAT) else all_of_them for name in KINDS}
    named = {name for block in blocks for name in block}
    return tuple(name for name, found in settings.items() if name in named and len({each[name] for each in found}) > 1)


def _values(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{name} of [grid] must be a list of one value or more, got {values!r}")
    return [_value(name, value) for value in values]


def _value(name: str, value: Any) -> Any:
    """The value of a setting in its type; numbers may be fractions in quotes.

    Raises:
        InputError: if there is no such setting, or the value has another type.
    """
    check_known("setting", name, KINDS)
    kind = KINDS[name]
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return parse_number(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "a name in quotes", int: "a whole number", float: 'a number, or a fraction such as "8/255"'}
        raise InputError(f"{name} must be {wanted[kind]}, got {value!r}")
    return value


def _training(scale: str, values: dict[str, Any]) -> tuple[str, TrainConfig]:
    """Data set and config of a point."""
    settings = dict(values)
    data, norm, eps = (settings.pop(name, None) for name in ("data", "threat", "eps"))
    if data is None:
        raise InputError('data is missing; give it in [train] or [grid], such as data = "mnist"')
    if norm is not None:
        check_known("threat", norm, THREATS)
    if (norm is None) != (eps is None):
        raise InputError(
            f"threat and eps go together, got threat {norm!r} and eps {eps!r}; eps = 0 is standard training"
        )
    ball = threat(norm, eps) if norm and eps else None
    if ball is None:
        settings = {name: value for name, value in settings.items() if name not in OF_A_THREAT}
    base = preset(scale, _family(data), ball) if scale else TrainConfig(threat=ball)
    return data, base.changed(settings)


@lru_cache
def _family(data: str) -> str:
    """What presets go by: the name before the colon, or that in a packed file."""
    return read_packed(Path(data).expanduser()).name if data.endswith(PACKED) else data.partition(":")[0]


@dataclasses.dataclass(frozen=True)
class _Exam:
    """An `Exam` whose threats may depend on the data set."""

    settings: Mapping[str, Any]
    threats: Mapping[str, tuple[Threat, ...]] | tuple[Threat, ...]

    def of(self, data: str, usual: tuple[Threat, ...]) -> Exam:
        """The exam of a model of this data set; within its usual threats where nothing else is said."""
        threats = self.threats.get(data, ()) if isinstance(self.threats, Mapping) else self.threats
        return Exam(threats or usual, **self.settings)


def _exam(values: Mapping[str, Any]) -> _Exam:
    for name in values:
        check_known("setting of [evaluate]", name, _EXAM)
    settings = {name: value for name, value in values.items() if name != "threats"}
    if "protocol" not in settings and "attack" not in settings:
        settings["protocol"] = "quick"
    for name in ("protocol", "attack"):
        if not isinstance(settings.get(name, ""), str):
            raise InputError(f"{name} of [evaluate] must be a name in quotes, got {settings[name]!r}")
    threats = values.get("threats", [])
    if isinstance(threats, dict):
        return _Exam(settings, {data: _threats(listed) for data, listed in threats.items()})
    return _Exam(settings, _threats(threats))


def _threats(listed: Any) -> tuple[Threat, ...]:
    """From a list of texts, "linf 8/255"."""
    texts = listed if isinstance(listed, list) else [listed]
    words = [text.split() if isinstance(text, str) else [] for text in texts]
    wrong = next((text for text, pair in zip(texts, words, strict=True) if len(pair) != 2), None)
    if wrong is not None or not isinstance(listed, list):
        raise InputError(f'threats of [evaluate] must be a list such as ["linf 0.3", "l2 128/255"], got {listed!r}')
    for norm, _ in words:
        check_known("threat", norm, THREATS)
    return tuple(dict.fromkeys(threat(norm, eps) for norm, eps in words))
