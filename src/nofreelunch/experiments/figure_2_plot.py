"""Figure 2 drawn: weights as images, weight against correlation, few pixels; then the exact threshold and the path."""

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofreelunch.drawing import COLOUR
from nofreelunch.experiments.figure_2_result import Result


def plot(result: Result) -> Figure:
    """Panels (a) to (e), one under the other, so that they can be read on a phone."""
    figure = pyplot.figure(figsize=(6.4, 14.2))
    axes = figure.subplot_mosaic("ABC;DDD;EEE;FFF;GGG", height_ratios=(2.2, 3.1, 3.1, 2.6, 2.9))
    _weight_images([axes[name] for name in "ABC"], result)
    _correlation_and_weight(axes["D"], result)
    _few_pixels(axes["E"], result)
    _threshold(axes["F"], result)
    _path(axes["G"], result)
    return figure


def _weight_images(axes: list[Axes], result: Result) -> None:
    names = ("standard", "adversarial, descent", "adversarial, optimum")
    panels = zip(names, (result.standard, result.descent, result.optimum), strict=True)
    for at, (name, weights) in zip(axes, panels, strict=True):
        picture = weights.reshape(result.shape).sum(0)
        limit = float(np.abs(picture).max()) or 1.0
        at.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        at.set(xticks=[], yticks=[], xlabel=f"{name}\n{np.count_nonzero(weights)} weights")
        at.grid(False)
        at.spines[:].set_visible(True)
    axes[0].set_title("(a) weights")


def _correlation_and_weight(axes: Axes, result: Result) -> None:
    for name, weights, colour, size in (
        ("standard", result.standard, COLOUR["standard"], 8),
        ("adversarial, descent", result.descent, COLOUR["quiet"], 8),
        ("adversarial, optimum", result.optimum, COLOUR["robust"], 22),
    ):
        scaled = weights / (np.abs(weights).max() or 1.0)
        shown = scaled != 0
        axes.scatter(result.correlation[shown], scaled[shown], s=size, color=colour, label=name, linewidths=0)
    axes.set(title="(b) correlation and weight", xlabel="correlation with the label", ylabel="weight / largest")
    axes.legend(loc="upper left", fontsize=9)


def _few_pixels(axes: Axes, result: Result) -> None:
    names = ("clean", f"robust, ε = {result.eps:g}")
    for column, (name, colour) in enumerate(zip(names, (COLOUR["standard"], COLOUR["robust"]), strict=True)):
        axes.plot(result.counts, 100 * result.top[:, column], "o-", ms=4, color=colour, label=f"{name}: descent")
        exact = 100 * result.top_optimum[:, column]
        axes.plot(result.counts[: len(exact)], exact, "--", color=colour, lw=1.3, label=f"{name}: optimum")
        axes.axhline(
            100 * result.reference[column], color=colour, lw=1.2, ls=":", label=f"{name}: adversarial training"
        )
    axes.set_xscale("log")
    ticks = [k for k in (1, 3, 10, 30, 100, 300, 1000, 3000) if k < result.counts[-1]] + [result.counts[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set(
        title="(c) standard training on few pixels", xlabel="most correlated pixels used", ylabel="test accuracy (%)"
    )
    axes.legend(loc="lower left", fontsize=8.5)


def _threshold(axes: Axes, result: Result) -> None:
    size, share, used = np.abs(result.correlation), np.abs(result.share), result.optimum != 0
    axes.scatter(size[~used], share[~used], s=8, color=COLOUR["quiet"], linewidths=0, label="weight exactly 0")
    axes.scatter(size[used], share[used], s=22, color=COLOUR["robust"], linewidths=0, label="weight not 0")
    axes.axhline(1, color=COLOUR["bound"], lw=1.2)
    axes.set(title="(d) the exact threshold", xlabel="|correlation with the label|", ylabel="|covariance| / room")
    axes.set_ylim(-0.03, 1.09)
    axes.legend(loc="lower right", fontsize=9)


def _path(axes: Axes, result: Result) -> None:
    for column, (name, colour) in enumerate((("clean", COLOUR["standard"]), ("robust at that ε", COLOUR["robust"]))):
        axes.plot(result.path, 100 * result.path_accuracy[:, column], "o-", ms=4, color=colour, label=name)
    for eps, pixels, height in zip(result.path, result.path_pixels, 100 * result.path_accuracy[:, 0], strict=True):
        axes.annotate(f"{pixels}", (eps, height), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.axvline(result.vanishing_eps, color=COLOUR["bound"], lw=1.2, label="no pixel from here on")
    axes.set(
        title="(e) optima of adversarial training, and the pixels they use",
        xlabel="ε of training",
        ylabel="test accuracy (%)",
    )
    axes.margins(y=0.12)
    axes.set_xscale("log")
    ends = (*result.path, result.vanishing_eps)
    ticks = [eps for eps in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5) if min(ends) <= eps <= max(ends)]
    axes.set_xticks(ticks, [f"{eps:g}" for eps in ticks])
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=9)


def alt(result: Result) -> str:
    """The figure in words."""
    best = int(result.top[:, 1].argmax())
    return (
        f"Linear classifiers of {result.title} at ε = {result.eps:g}. (a) Weights as images: standard training covers "
        f"{np.count_nonzero(result.standard)} pixels, the optimum of adversarial training {len(result.used)}. "
        f"(b) Weight against correlation with the label. (c) Test accuracy of standard training on the most correlated "
        f"pixels: against the adversary it is {100 * result.top[0, 1]:.1f} % with one pixel, at most "
        f"{100 * result.top[best, 1]:.1f} % with {result.counts[best]}, and {100 * result.top[-1, 1]:.1f} % with all; "
        f"adversarial training reaches {100 * result.reference[1]:.1f} %. (d) Covariance over the adversary's room: "
        f"1 for the pixels in use, less for the others. (e) Accuracy and number of pixels of the optimum for growing "
        f"ε; no pixel is used from {result.vanishing_eps:.3f} on."
    )
