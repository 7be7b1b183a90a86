"""The web page's layout: which control feeds which answer. All else of this part knows nothing of Gradio."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import gradio as gr

from nofreelunch.app.answers import evaluated, explained
from nofreelunch.app.frame import framed
from nofreelunch.app.gaussian import solved
from nofreelunch.app.question import Place, Question, datasets, radii
from nofreelunch.errors import InputError, RunError
from nofreelunch.experiments.paper_values import TABLE_2_EPS, TABLE_3_EPS, THEOREM_2_1_P
from nofreelunch.threats import THREATS

_ONE_AT_A_TIME = {"concurrency_id": "all", "concurrency_limit": 1}  # figures are drawn with one global style
_ALT = "Robust against clean accuracy: the best possible, Theorem 2.1's bound, and where some classifiers stand"
_SOURCE = (
    "After Tsipras et al. (2018), *There Is No Free Lunch In Adversarial Robustness "
    "(But There Are Unexpected Benefits)*. Everything is computed on this machine."
)


def page(place: Place) -> Any:
    """The page, not yet served.

    Raises:
        InputError: if the folder of data sets does not exist.
    """
    known = datasets(place)
    with gr.Blocks(title="nofreelunch", analytics_enabled=False, delete_cache=(86400, 86400)) as blocks:
        gr.Markdown(f"# No free lunch in adversarial robustness\n{_SOURCE}")
        with gr.Tab("Explain a model"):
            _explain(blocks, place, known)
        with gr.Tab("Theory"):
            _theory(blocks)
        with gr.Tab("Evaluate a model"):
            _evaluate(place, known)
    return blocks


def answered(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but what cannot be answered becomes a message on the page."""

    @wraps(answer)
    def call(*values: Any) -> Any:
        try:
            return answer(*values)
        except (InputError, RunError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    return call


def _explain(blocks: Any, place: Place, known: Mapping[str, tuple[str, ...]]) -> None:
    def explain(*values: Any) -> str:
        """What a model of the package sees in test images."""
        return framed(explained(_question(TABLE_3_EPS, *values), place), f"What {values[0]} sees")

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            controls = _controls(TABLE_3_EPS, known, ("mnist-l2-1.5", "l2"), (6, 10))
            button = gr.Button("Explain", variant="primary")
        with gr.Column(scale=3, min_width=480):
            shown = gr.HTML(min_height=400)
    gr.on([button.click, blocks.load], answered(explain), controls, shown, api_name="explain", **_ONE_AT_A_TIME)


def _evaluate(place: Place, known: Mapping[str, tuple[str, ...]]) -> None:
    def evaluate(*values: Any, progress: Any = gr.Progress()) -> str:  # noqa: B008 (Gradio looks for it there)
        """Clean and robust accuracy of a model of the package, with a verdict."""

        def report(step: str, done: int, total: int) -> None:
            progress((done, total), desc=step, unit="images")

        return framed(evaluated(_question(TABLE_2_EPS, *values), place, report), f"How robust {values[0]} is")

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            controls = _controls(TABLE_2_EPS, known, ("mnist-linf-0.3", "linf"), (20, 200))
            button = gr.Button("Evaluate", variant="primary")
            gr.Markdown("Protocol *quick*: seconds to minutes. Few images give wide intervals.")
        with gr.Column(scale=3, min_width=480):
            shown = gr.HTML(min_height=400)
    button.click(answered(evaluate), controls, shown, api_name="evaluate", **_ONE_AT_A_TIME)


def _controls(
    table: Mapping[tuple[str, str], float],
    known: Mapping[str, tuple[str, ...]],
    first: tuple[str, str],
    images: tuple[int, int],
) -> list[Any]:
    """The controls that make a question; `first` model and norm, and the numbers of images at first and at most."""
    sets = known[first[0]]
    model = gr.Dropdown([*known], value=first[0], label="Model")
    data = gr.Dropdown([*sets], value=sets[0], label="Test images")
    norms = [(THREATS[norm].symbol, norm) for norm in sorted({norm for _, norm in table})]
    norm = gr.Radio(norms, value=first[1], label="Norm of the ball")
    eps = _slider(table, sets[0], first[1])
    n = gr.Slider(1, images[1], value=images[0], step=1, label="Number of images")
    seed = gr.Number(0, precision=0, minimum=0, label="Seed")

    def of_model(model: str, norm: str) -> tuple[Any, Any]:
        sets = known[model]
        return gr.Dropdown([*sets], value=sets[0]), _slider(table, sets[0], norm)

    silently = {"api_visibility": "private", "queue": False}
    model.input(of_model, [model, norm], [data, eps], **silently)
    norm.input(partial(_slider, table), [data, norm], eps, **silently)
    return [model, data, norm, eps, n, seed]


def _slider(table: Mapping[tuple[str, str], float], data: str, norm: str) -> Any:
    """A slider for the radius; it begins with the paper's."""
    radius = radii(table, data, norm)
    unit = "" if radius.scale == 1 else f", in 1/{radius.scale}"
    info = "Pixels are in [0, 1]. It begins with the paper's radius."
    return gr.Slider(0, 2 * radius.paper, value=radius.paper, step=radius.step, label=f"Radius ε{unit}", info=info)


def _question(
    table: Mapping[tuple[str, str], float], model: str, data: str, norm: str, eps: float, n: int, seed: int
) -> Question:
    return Question(model, data, norm, radii(table, data, norm).eps(eps), n, seed)


def _theory(blocks: Any) -> None:
    def theory(d: int, eta: float, p: float, eps: float) -> tuple[str, str]:
        """Accuracies, bound and frontier of the Gaussian model."""
        found = solved(d, eta, p, eps)
        return f'<figure role="img" aria-label="{_ALT}" class="plot">{found.plot}</figure>', found.markdown()

    gr.Markdown(
        "Equation (3): the label is y = ±1; x₁ is y with probability p, else −y; each of d weak features is normal "
        "around ηy with variance 1. The adversary moves every feature by up to ε."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            sliders = [
                gr.Slider(1, 5000, value=1000, step=1, label="Number of weak features d"),
                gr.Slider(0, 1, value=0.1, step=0.001, label="Mean of each weak feature η"),
                gr.Slider(0.5, 0.99, value=THEOREM_2_1_P, step=0.01, label="Probability p that x₁ agrees with y"),
                gr.Slider(0, 0.99, value=0.2, step=0.001, label="Radius of the adversary ε"),
            ]
        with gr.Column(scale=3, min_width=480):
            shown = [gr.HTML(min_height=300), gr.Markdown(elem_classes="solved")]
    changes = [slider.change for slider in sliders]
    options = {"trigger_mode": "always_last", "show_progress": "hidden", "api_name": "theory", **_ONE_AT_A_TIME}
    gr.on([*changes, blocks.load], answered(theory), sliders, shown, **options)
