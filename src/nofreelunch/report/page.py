"""Puts the saved results of a workspace into one page: no script, no network, light and dark, phone and print."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nofreelunch.drawing import inlined
from nofreelunch.errors import InputError
from nofreelunch.files import atomic_write
from nofreelunch.report.template import render
from nofreelunch.workspace import Workspace

_VERDICTS = ("agrees", "differs", "undecided", "refuted", "beyond the paper")


def write_report(workspace: Workspace, order: tuple[str, ...]) -> Path:
    """Write `report.html` from the results that are there; its path.

    Args:
        order: experiment names in the paper's order; results that are not there, or damaged, are named as missing.
    """
    found = {name: _section(workspace, name) for name in order}
    sections = [section for section in found.values() if section is not None]
    verdicts = Counter(finding["verdict"] for section in sections for finding in section["findings"])
    missing = [name for name in order if found.get(name) is None]
    page = render(
        "page.html",
        {"value": _value, "signed": _signed, "seconds": _seconds},
        sections=sections,
        verdicts=[(name, verdicts[name]) for name in _VERDICTS if verdicts[name]],
        missing=missing,
        smoke=any("--scale smoke" in section["command"] for section in sections),
    )
    path = workspace.root / "report.html"
    atomic_write(path, page)
    return path


def report_lines(workspace: Workspace, names: Sequence[str]) -> Iterator[str]:
    """How the claims of each experiment fared, in a line; those of the paper that were not borne out in full."""
    for name in names:
        findings = workspace.about(name)["findings"]
        verdicts = Counter(finding["verdict"] for finding in findings)
        yield f"{name}: " + ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in _VERDICTS if verdicts[verdict])
        for finding in findings:
            if finding["verdict"] not in ("agrees", "beyond the paper"):
                ours, paper = (_value(finding[of], finding["unit"]) for of in ("ours", "paper"))
                told = "" if finding["paper"] is None else f"; the paper: {paper}"
                yield f"  {finding['verdict']}: {finding['claim']} Here: {ours}{told}"


def _section(workspace: Workspace, name: str) -> dict[str, Any] | None:
    """What the page says of an experiment; None if it cannot be read."""
    try:
        about = workspace.about(name)
        figure = _inline((workspace.root / "figures" / f"{name}.svg").read_text(), name)
    except (InputError, OSError, ValueError):
        return None
    return {**about, "name": name, "figure": figure} if "findings" in about else None


def _inline(svg: str, name: str) -> Markup:
    """An SVG file of ours as part of the page, its ids made unique."""
    svg = re.sub(r'\bid="', f'id="{name}-', inlined(svg))
    return Markup(re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg))


def _value(value: float | str | None, unit: str) -> str:
    """A number to the digits a reader needs; a text as it is; a dash for what is not there."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if unit == "%":
        return f"{value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _signed(value: float | None, unit: str) -> str:
    return "–" if value is None else (f"{value:+.2f}" if unit == "%" else f"{value:+.3g}")


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"
