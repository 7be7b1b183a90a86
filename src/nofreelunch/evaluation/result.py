"""What an evaluation answers: never a figure alone."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from nofreelunch.evaluation.tally import Tally
from nofreelunch.files import atomic_write
from nofreelunch.threats import Threat
from nofreelunch.workspace import plain, to_json

Word = Literal["trusted", "doubtful", "invalid"]

INVALID = {"chance-accuracy", "constant-output"}
"""Findings after which the figure says nothing about the model."""


@dataclass(frozen=True)
class Flag:
    """A reason not to trust the figure.

    Args:
        name: of the check, e.g. "zero-gradients".
        evidence: what was measured.
        what_to_do: the way out.
    """

    name: str
    evidence: str
    what_to_do: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}; {self.what_to_do}"


@dataclass(frozen=True)
class Evaluation:
    """How accurate a model is, on the examples and at the worst points found near them.

    `robust` is an upper bound, as every attack's figure is; `certified`, where there is one, is the bound from below.

    Args:
        clean: on the examples themselves.
        robust: under the attack, an example being lost if any attack breaks it.
        by_attack: what was left after each attack, in the order in which they ran.
        clean_by_class: `clean` for each class that occurs.
        robust_by_class: `robust` likewise.
        flags: the reasons not to trust the figure.
        notes: what else the reader must know.
        exact: whether `robust` is the truth on these examples, not only a bound.
        certified: examples that are proven robust, if the model is one that can be certified.
        threat: what the adversary may do.
        protocol: the name of the list of attacks.
        seed: of all that is random.
        versions: of the software that it was begun with.
        data_digest: SHA-256 of the examples.
        weights_digest: SHA-256 of the model's tensors and plain attributes.
        dropped: points that an attack returned and that do not count: outside ball or box, or not finite.
        seconds: wall time, of the last run if it was resumed.
        broken_by: for each example the attack that broke it: "clean" if it is misclassified as it is, "" if none did.
        clean_margin: for each example the best wrong logit minus the true one.
        margin: the same at the worst point found.
        x_adv: the worst points found, if they were to be kept.
    """

    clean: Tally
    robust: Tally
    by_attack: dict[str, Tally]
    clean_by_class: dict[int, Tally] = field(repr=False)
    robust_by_class: dict[int, Tally] = field(repr=False)
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]
    exact: bool
    certified: Tally | None
    threat: Threat
    protocol: str
    seed: int
    versions: dict[str, str] = field(repr=False)
    data_digest: str = field(repr=False)
    weights_digest: str = field(repr=False)
    dropped: int
    seconds: float = field(compare=False)
    broken_by: tuple[str, ...] = field(repr=False)
    clean_margin: np.ndarray = field(repr=False, compare=False)
    margin: np.ndarray = field(repr=False, compare=False)
    x_adv: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> Word:
        """`invalid` where the figure says nothing, `doubtful` where there is a reason to doubt it."""
        if any(flag.name in INVALID for flag in self.flags):
            return "invalid"
        return "doubtful" if self.flags else "trusted"

    @property
    def trusted(self) -> bool:
        """Whether there is no reason to doubt the figure."""
        return self.verdict == "trusted"

    @property
    def adds(self) -> dict[str, int]:
        """How many examples each attack was the first to break."""
        left = [tally.correct for tally in self.by_attack.values()]
        before = [self.clean.total, *left[:-1]]
        return {name: int(b - a) for name, a, b in zip(self.by_attack, left, before, strict=True)}

    def to_plain(self) -> dict[str, Any]:
        """Everything but the examples, in JSON's types; infinite margins become None."""
        record: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "x_adv"}
        for name in ("clean_margin", "margin"):
            record[name] = [float(m) if np.isfinite(m) else None for m in getattr(self, name)]
        tallies = {"clean": self.clean, "robust": self.robust}
        intervals = {f"{name}_interval": tally.interval(0.95) for name, tally in tallies.items()}
        made = {"verdict": self.verdict, "adds": self.adds}
        whole: dict[str, Any] = plain(record | intervals | made)
        return whole

    def save(self, path: Path) -> None:
        """Write it to a file as JSON, whole or not at all."""
        atomic_write(Path(path), to_json(self))

    def __str__(self) -> str:
        bound = "is" if self.exact else "is at most"
        lines = [
            f"clean accuracy {self.clean}",
            f"robust accuracy {bound} {self.robust} under {self.threat}",
            *([f"proven robust: at least {self.certified.rate:.1%}"] if self.certified else []),
            f"{self.verdict}",
            *map(str, self.flags),
            *([f"{self.dropped} points that attacks returned were outside and did not count"] if self.dropped else []),
            *self.notes,
        ]
        return "\n".join(lines)
