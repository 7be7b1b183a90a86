"""What evaluation.json holds: the evaluation at the largest radius, those at smaller ones, and what they are of."""

from collections.abc import Mapping
from math import isfinite
from statistics import median_low
from typing import Any

from nofreelunch.data import Dataset
from nofreelunch.evaluation.result import Evaluation
from nofreelunch.evaluation.sweep import Sweep
from nofreelunch.evaluation.tally import Tally
from nofreelunch.types import Labels
from nofreelunch.workspace import plain

_COUNTED = ("clean", "robust", "by_attack", "clean_by_class", "robust_by_class", "certified")


def to_record(found: Sweep, data: Dataset, index: Labels, command: str, model: dict[str, Any]) -> dict[str, Any]:
    """All of it, in JSON's types.

    Args:
        found: on some or all of a data set's test images.
        data: the data set.
        index: the places of these images in its test set.
        command: makes it again.
        model: as the user named it.
    """
    records = [_plain(ev) for ev in found.evaluations]
    *smaller, largest = records
    about = {
        "command": command,
        "model": model,
        "data": {
            "name": data.name,
            "classes": data.classes,
            "images": len(found.distance),
            "of": len(data.test),
            "index": index.tolist(),
        },
        "smaller_radii": smaller,
        "distance": [_finite(radius) for radius in found.distance],
        "median_distance": _finite(median_low(found.distance.tolist())),
    }
    return {**largest, **about, "notes": [*largest["notes"], *data.notes]}


def _plain(ev: Evaluation) -> dict[str, Any]:
    """An evaluation with the rate and the 95% interval beside each count."""
    counted = {name: _rated(getattr(ev, name)) for name in _COUNTED}
    return ev.to_plain() | {"steps": [*ev.by_attack]} | counted


def _rated(value: Tally | Mapping[Any, Tally] | None) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {str(key): _rated(tally) for key, tally in value.items()}
    return None if value is None else {**plain(value), "rate": value.rate, "interval": [*value.interval(0.95)]}


def _finite(radius: float) -> float | None:
    return float(radius) if isfinite(radius) else None
