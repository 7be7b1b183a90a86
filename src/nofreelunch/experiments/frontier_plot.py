"""The plot beside `nofreelunch theory`: the exact trade-off, Theorem 2.1's bound, and where some classifiers stand."""

from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofreelunch.drawing import COLOUR

NAMES = {
    "x1_alone": "x₁ alone",
    "average": "average of the weak features",
    "standard_svm": "standard SVM",
    "adversarial_svm": "adversarial SVM",
}
"""The classifiers that are shown, as the reader sees them."""


def plot(quantities: dict[str, Any]) -> Figure:
    """Robust against clean accuracy, from what `theory.summary` returns."""
    figure, axes = pyplot.subplots(figsize=(6.0, 4.4))
    _curves(axes, quantities)
    for size, (name, label) in zip((12, 12, 7, 7), NAMES.items(), strict=True):  # one may lie on top of another
        if name in quantities["accuracy"]:
            at = quantities["accuracy"][name]
            axes.plot(at["clean"], at["linf_full"], "o", ms=size, label=label, zorder=3)
    setting = quantities["model"]
    axes.set(
        xlabel="clean accuracy",
        ylabel="robust accuracy",
        xlim=(min(0.45, axes.get_xlim()[0]), 1.02),
        ylim=(-0.02, 1.02),
        title=f"d = {setting['d']:,}, η = {setting['eta']:.4g}, p = {setting['p']:g}, ε = {setting['eps']:.4g}",
    )
    axes.legend(loc="upper left", fontsize=9)
    return figure


def _curves(axes: Axes, quantities: dict[str, Any]) -> None:
    """The frontier against the full adversary, where there is one, and the theorem's bound, where it holds."""
    full, theorem = quantities["frontier"]["full"], quantities["theorem_2_1"]
    if isinstance(full, dict):
        axes.plot(full["clean_accuracy"], full["robust_accuracy"], color=COLOUR["robust"], label="best possible, exact")
    if theorem["holds_here"]:
        clean = (theorem["attained_at_clean_accuracy"], 1.0)
        bound = [theorem["factor"] * (1 - each) for each in clean]
        axes.plot(clean, bound, "--", color=COLOUR["bound"], label="bound of Theorem 2.1")
