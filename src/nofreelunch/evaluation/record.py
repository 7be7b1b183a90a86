"""What evaluation.json holds: the evaluation at the largest radius, those at smaller ones, and what they are of."""

from math import isfinite
from statistics import median_low
from typing import Any

from nofreelunch.data import Dataset
from nofreelunch.evaluation.sweep import Sweep
from nofreelunch.types import Labels


def to_record(found: Sweep, data: Dataset, index: Labels, command: str, model: dict[str, Any]) -> dict[str, Any]:
    """All of it, in JSON's types.

    Args:
        found: on some or all of a data set's test images.
        data: the data set.
        index: the places of these images in its test set.
        command: makes it again.
        model: as the user named it.
    """
    records = [ev.to_plain() | {"steps": [*ev.by_attack]} for ev in found.evaluations]
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


def _finite(radius: float) -> float | None:
    return float(radius) if isfinite(radius) else None
