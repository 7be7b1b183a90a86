"""Robust accuracy as a function of the radius, and the distance at which each example is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from nofreelunch.data import Split
from nofreelunch.errors import InputError
from nofreelunch.evaluation.evaluate import evaluate
from nofreelunch.evaluation.protocols import AttackRecipe, Protocol
from nofreelunch.evaluation.result import Evaluation
from nofreelunch.evaluation.trial import Progress
from nofreelunch.threats import Threat, check_threat
from nofreelunch.types import Model


@dataclass(frozen=True, eq=False)
class Sweep:
    """One evaluation per radius, of one norm.

    Attributes:
        evaluations: by ascending radius. An example that is lost within one radius is lost within every larger one,
            unless the model is randomised.
        distance: for each example the smallest of the radii at which it is lost: 0 if it is misclassified as it is,
            infinity if no radius sufficed. An upper bound of the distance to failure.
    """

    evaluations: tuple[Evaluation, ...]
    distance: np.ndarray = field(repr=False)

    def curve(self) -> tuple[tuple[float, float], ...]:
        """(radius, robust accuracy), the clean accuracy first."""
        first = self.evaluations[0]
        return ((0.0, first.clean.rate), *((ev.threat.eps, ev.robust.rate) for ev in self.evaluations))


def sweep(
    model: Model,
    data: Split | tuple[Tensor, Tensor],
    threats: Sequence[Threat],
    protocol: str | Protocol = "quick",
    seed: int = 0,
    keep_examples: bool = False,
    *,
    attacks: Mapping[str, AttackRecipe] | None = None,
    batch_size: int | None = None,
    out: Path | str | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Sweep:
    """Evaluations at several radii, the smallest first; what broke an example there need not be found again.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        threats: of one norm and box, in any order; the same radius twice counts once.
        protocol: as for `evaluate`.
        seed: as for `evaluate`.
        keep_examples: as for `evaluate`.
        attacks: further attacks by name: functions of the threat.
        batch_size: as for `evaluate`.
        out: a folder in which each radius has one for its state.
        progress: as for `evaluate`; where there are several radii, the step's name says which.

    Raises:
        InputError: if there are none, or of several norms or boxes; and as `evaluate` does.
    """
    if not isinstance(attacks or {}, Mapping) or not all(map(callable, (attacks or {}).values())):
        raise InputError(f"attacks must be functions of the threat by name, got {attacks!r}")
    if not isinstance(threats, (tuple, list)) or len({(type(check_threat(t)), t.box) for t in threats}) != 1:
        raise InputError(f"threats must be one or more of one norm and box, in a list, got {threats!r}")
    found: list[Evaluation] = []
    for threat in sorted(set(threats), key=lambda threat: threat.eps):
        where = f"{threat.norm} eps {threat.eps}"
        evaluation = evaluate(
            model, data, threat, protocol, seed, keep_examples,
            attacks={name: recipe(threat) for name, recipe in (attacks or {}).items()},
            batch_size=batch_size,
            out=None if out is None else Path(out) / where.replace(" ", "-"),
            known=found[-1] if found else None,
            progress=progress if len(set(threats)) == 1 else _prefixed(progress, f"{where}: "),
        )  # fmt: skip
        found.append(evaluation)
    lost = np.stack([np.array([step != "" for step in ev.broken_by]) for ev in found])
    radii = np.array([ev.threat.eps for ev in found])
    distance = np.where(lost.any(0), radii[lost.argmax(0)], np.inf)
    clean = np.array([step == "clean" for step in found[0].broken_by])
    return Sweep(tuple(found), np.where(clean, 0.0, distance))


def _prefixed(progress: Progress, prefix: str) -> Progress:
    return lambda step, done, total: progress(prefix + step, done, total)
