"""The measurements as a page and a plot, from what was saved: nothing is measured here."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from nofreelunch.workspace import read_json


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """What a part measured last, if it ever did."""
    path = folder / f"{name}.json"
    return read_json(path) if path.exists() else None


def machine(record: dict[str, Any]) -> str:
    """Where and when a part was measured."""
    where = f"{record['machine']}; torch {record['torch']}, {record['threads']} threads"
    return f"*{where}; {record['date']}; {record['rounds']}*"


def draw(steps: dict[str, Any], path: Path) -> None:
    """Bars: cost of a PGD step over the raw limit, one panel per network and norm."""
    figure, panels = plt.subplots(1, len(steps), figsize=(3.4 * len(steps), 3.2), sharey=True, layout="constrained")
    names = list(dict.fromkeys(name for result in steps.values() for name in result["ratio"] if name != "raw limit"))
    for panel, (case, result) in zip(panels, steps.items(), strict=True):
        for place, name in enumerate(names):
            if name in result["ratio"]:
                low, middle, high = result["ratio"][name]
                colour = "tab:blue" if name.startswith("ours") else "0.6"
                panel.barh(place, middle, xerr=[[middle - low], [high - middle]], color=colour)
                panel.text(0.02, place, f"{middle:.2f}", va="center", color="white")
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set(title=case, xlabel="time of a step / raw limit", yticks=range(len(names)), yticklabels=names)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)
