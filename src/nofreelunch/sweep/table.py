"""The points' results as a table: one row for each point and each threat that its model was examined within."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nofreelunch.evaluation.tally import percent
from nofreelunch.sweep.point import Point
from nofreelunch.sweep.work import Score
from nofreelunch.threats import format_radius

BASE = ("data", "arch", "threat", "eps", "recipe", "seed")
"""Settings that every table has; those that are varied besides follow them."""


@dataclass(frozen=True)
class Row:
    """A point, and what its model scored within one threat; `name` is that of the point's folder."""

    name: str
    point: Point
    score: Score


def to_csv(rows: Sequence[Row], varied: Sequence[str]) -> bytes:
    """All of it, with counts: a rate is correct / total. The same results give the same bytes."""
    settings = (*BASE, *(name for name in varied if name not in BASE))
    tallies = ("clean", "robust")
    header = [
        "point", *settings, "by", "within", "within_eps",
        *(f"{tally}_{part}" for tally in tallies for part in ("correct", "total", "low", "high")), "verdict",
    ]  # fmt: skip
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        mine, score = row.point.settings, row.score
        numbers = [
            number
            for tally in (score.clean, score.robust)
            for number in (tally.correct, tally.total, *(f"{end:.4f}" for end in tally.interval(0.95)))
        ]
        writer.writerow([
            row.name, *(mine[name] for name in settings),
            row.point.exam.method, score.threat.norm, score.threat.eps, *numbers, score.verdict,
        ])  # fmt: skip
    return file.getvalue().encode()


def to_text(rows: Sequence[Row], varied: Sequence[str]) -> str:
    """What varies, and the rates with their 95% intervals, in aligned columns."""
    header = [*varied, "within", "clean", "robust", "verdict"]
    cells = [
        [
            *(format_setting(row.point.settings, name) for name in varied),
            f"{row.score.threat.norm} {format_radius(row.score.threat.eps)}",
            *(percent((tally.rate, *tally.interval())) for tally in (row.score.clean, row.score.robust)),
            row.score.verdict,
        ]
        for row in rows
    ]
    lines = [header, *cells]
    used = [column for column in range(len(header)) if any(line[column] for line in cells)]
    widths = {column: max(len(line[column]) for line in lines) for column in used}
    return "\n".join("  ".join(line[column].ljust(widths[column]) for column in used).rstrip() for line in lines)


def label(point: Point, varied: Sequence[str]) -> str:
    """A point by what it does not share with all others."""
    settings = point.settings
    words = [f"{name} {format_setting(settings, name)}" for name in varied if name not in ("data", "threat", "eps")]
    what = f"{settings['threat']} {format_setting(settings, 'eps')}" if point.config.threat else "standard"
    return ", ".join([*([settings["data"]] if "data" in varied else []), what, *words])


def format_setting(settings: Mapping[str, Any], name: str) -> str:
    """A setting as it stands in a table."""
    value = settings[name]
    if name == "threat":
        return value or "standard"
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
