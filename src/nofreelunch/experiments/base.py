"""What an experiment is: a config, a run, findings computed from its result, and a figure drawn from it.

Three steps, never mixed: `run` computes and returns a `Result` that can be saved; `findings` holds it against the
paper; `plot` draws it. No verdict is typed by hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nofreelunch.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["agrees", "differs", "undecided", "refuted", "beyond the paper"]
Scale = Literal["smoke", "laptop", "paper"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: a claim, the paper's value, ours, and what follows.

    Args:
        claim: a full sentence, as the paper makes it (or as we do, beyond it).
        where: its place in the paper, e.g. "Theorem 2.1", "Table 4"; "-" for what the paper does not speak of.
        paper: the paper's value; None where it gives none.
        ours: the value computed here.
        verdict: computed by `compare`, `holds` or `beyond`, or from intervals, which may leave it undecided.
        note: what a reader must know to weigh it (an ambiguity, an adversary, a condition).
        unit: "%" for accuracies given in percent, else "".
    """

    claim: str
    where: str
    paper: float | str | None
    ours: float | str
    verdict: Verdict
    note: str = ""
    unit: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, where both are numbers."""
        if isinstance(self.paper, (int, float)) and isinstance(self.ours, (int, float)):
            return self.ours - self.paper
        return None


def compare(claim: str, where: str, paper: float, ours: float, tolerance: float, note: str = "") -> Finding:
    """A percentage of the paper beside ours: they agree within `tolerance`, which the note should justify."""
    agrees = abs(ours - paper) <= tolerance
    return Finding(claim, where, paper, ours, "agrees" if agrees else "differs", note, "%")


def holds(
    claim: str, where: str, ok: bool, ours: float | str, note: str = "", paper: float | str | None = None
) -> Finding:
    """A statement of the paper that our result confirms (`ok`) or refutes."""
    return Finding(claim, where, paper, ours, "agrees" if ok else "refuted", note)


def beyond(claim: str, ours: float | str, note: str = "", unit: str = "") -> Finding:
    """Something the paper does not say."""
    return Finding(claim, "-", None, ours, "beyond the paper", note, unit)


@dataclass(frozen=True)
class Table:
    """Rows to be shown as they are: texts and numbers, formatted by whoever made them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Experiment:
    """One theorem, table or figure of the paper.

    Args:
        name: as on the command line, e.g. "theorem-2.1".
        paper_reference: e.g. "Section 2.1, Theorem 2.1, Appendix B".
        title: one line.
        about: two or three sentences: what is computed, what to look at.
        presets: a config for each scale.
        result_type: the frozen dataclass that `run` returns: numbers, strings, tuples, dicts, arrays.
        run: `run(config, workspace) -> result`.
        findings: the result held against the paper.
        plot: the figure, drawn from the result alone.
        alt: the figure in words, for those who cannot see it; computed from the result.
        table: the result as a table, where the paper shows one.
        inputs: digests of what the result depends on besides its config: models, data.
    """

    name: str
    paper_reference: str
    title: str
    about: str
    presets: Mapping[Scale, Any]
    result_type: type
    run: Callable[[Any, Workspace], Any]
    findings: Callable[[Any], tuple[Finding, ...]]
    plot: Callable[[Any], "Figure"]
    alt: Callable[[Any], str]
    table: Callable[[Any], Table] | None = None
    inputs: Callable[[Any, Workspace], Mapping[str, str]] | None = None
