"""The page and the words of `nofreelunch evaluate`, from what evaluation.json holds; they compute nothing."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nofreelunch.drawing import COLOUR, drawn, inlined
from nofreelunch.evaluation.tally import Tally, in_words
from nofreelunch.report.template import Filter, render
from nofreelunch.threats import THREATS, format_radius

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERDICTS = {
    "trusted": "",
    "doubtful": ": there are reasons not to believe the robust accuracy",
    "invalid": ": the figures say nothing about the model",
}


def evaluation_page(record: Mapping[str, Any]) -> bytes:
    """The page as HTML, from the content of evaluation.json."""
    filters: dict[str, Filter] = {
        "share": _share,
        "count": _count,
        "interval": lambda ends: in_words(*ends),
        "ball": _ball,
        "attack": _attack,
        "rate": _rate,
        "rated": _rated,
        "at_most": _at_most,
        "number": format_radius,
        "median": _median,
    }
    return render("evaluation.html", filters, record=record, radii=_radii(record), curve=_curve(record))


def evaluation_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The same for a terminal, line by line."""
    data, radii = record["data"], _radii(record)
    yield f"{record['model']['spec']} on {data['name']}: {data['images']} of {data['of']} test images"
    yield f"clean accuracy {_tally(record['clean'])}"
    for ev in radii:
        yield ""
        threat = f"{ev['threat']['norm']} eps {format_radius(ev['threat']['eps'])}"
        yield f"{threat}, protocol {ev['protocol']}, seed {ev['seed']}"
        yield f"robust accuracy {_at_most(ev)} {_tally(ev['robust'])}"
        if ev["certified"] and ev["certified"]["correct"]:
            yield f"proven robust   at least {_share(ev['certified'])}"
        yield "lost            " + ", ".join(f"{_attack(name)}: {ev['adds'][name]}" for name in ev["steps"])
        if ev["dropped"]:
            yield f"not counted     {ev['dropped']} points that attacks returned: outside ball or box, or not finite"
        yield f"verdict         {ev['verdict']}{_VERDICTS[ev['verdict']]}"
        for flag in ev["flags"]:
            yield f"- {flag['name']}: {flag['evidence']}"
            yield f"  what to do: {flag['what_to_do']}"
    yield ""
    if len(radii) > 1:
        yield _median(record)
    yield from (f"note: {note}" for note in record["notes"])


def _radii(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The evaluations by ascending radius."""
    return [*record["smaller_radii"], record]


def _curve(record: Mapping[str, Any]) -> Markup | None:
    """Robust accuracy against the radius, the clean accuracy first; nothing where there is one radius only."""
    return Markup(inlined(drawn(plot, record)[".svg"].decode())) if record["smaller_radii"] else None


def plot(record: Mapping[str, Any]) -> "Figure":
    """Accuracy against the radius, with its intervals; what is not to be trusted is hollow."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 2.9))
    points = [(0.0, _rate(record["clean"]), record["clean_interval"], record["verdict"] != "invalid")]
    for ev in _radii(record):
        points.append((ev["threat"]["eps"], _rate(ev["robust"]), ev["robust_interval"], ev["verdict"] == "trusted"))
    axes.plot([eps for eps, *_ in points], [100 * rate for _, rate, *_ in points], zorder=1)
    for eps, rate, (low, high), trusted in points:
        bar = axes.errorbar(eps, 100 * rate, [[100 * (rate - low)], [100 * (high - rate)]], color=COLOUR["robust"])
        bar.lines[0].set(marker="o", markersize=7, markerfacecolor=COLOUR["robust"] if trusted else "white")
    axes.set(xlabel=f"radius of the {_ball(record).split()[0]} ball", ylabel="robust accuracy, %", ylim=(0, 103))
    return figure


def _tally(found: Mapping[str, float]) -> Tally:
    return Tally(found["correct"], int(found["total"]))


def _rate(found: Mapping[str, float]) -> float:
    return _tally(found).rate


def _share(found: Mapping[str, float]) -> str:
    return f"{_rate(found):.1%} of {found['total']}"


def _count(found: Mapping[str, float]) -> str:
    return f"{found['correct']:.6g} of {found['total']}"


def _rated(found: Mapping[str, float]) -> str:
    low, high = _tally(found).interval()
    return f"{_rate(found):.1%} ({low:.1%} to {high:.1%})"


def _median(record: Mapping[str, Any]) -> str:
    radius = record["median_distance"]
    if radius is None:
        return "more than half of the images withstand the largest radius"
    return f"half of the images are lost within eps {format_radius(radius)}"


def _at_most(evaluation: Mapping[str, Any]) -> str:
    return "exactly" if evaluation["exact"] else "at most"


def _ball(evaluation: Mapping[str, Any]) -> str:
    threat = evaluation["threat"]
    return f"{THREATS[threat['norm']].symbol} eps {format_radius(threat['eps'])}"


def _attack(name: str) -> str:
    """A step of an evaluation in words."""
    if name == "clean":
        return "misclassified as they are"
    return f"broken {name}" if name.startswith("within ") else name
