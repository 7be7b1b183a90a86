"""The pages that `nofreelunch explain` and `nofreelunch evaluate` leave, made without a file."""

from collections.abc import Callable

from nofreelunch.app.question import Place, Question
from nofreelunch.evaluation import sweep
from nofreelunch.evaluation.record import to_record
from nofreelunch.experiments.explanation import Settings, contents, explain, large_eps_ball
from nofreelunch.report.evaluation import evaluation_page
from nofreelunch.report.explanation import explanation_page
from nofreelunch.threats import threat

_PROTOCOL = "quick"


def explained(question: Question, place: Place) -> bytes:
    """What the model sees in the images: gradients, large-eps examples, the way to them, and measures; HTML.

    Raises:
        InputError: if a value is out of range.
    """
    model, data = question.asked(place)
    ball = large_eps_ball(data, question.norm, question.eps)
    explanation = explain(model, data, Settings(ball, question.n, seed=question.seed), place.device)
    command = question.command("explain", place)
    return explanation_page(contents(explanation, ball, f"zoo:{question.model}", data, command))


def evaluated(question: Question, place: Place, progress: Callable[[str, int, int], None]) -> bytes:
    """Clean and robust accuracy on the images under the quick protocol, and whether to trust them; HTML.

    Args:
        progress: told a step's name, how many images it is through with, and of how many.

    Raises:
        InputError: if a value is out of range.
    """
    model, data = question.asked(place)
    ball = threat(question.norm, question.eps)
    ball.check_reach(data.test.x, data.name)
    index = data.test.evenly_spaced(question.n)
    found = sweep(model.to(place.device), data.test.select(index), [ball], _PROTOCOL, question.seed, progress=progress)
    command = question.command("evaluate", place, "--protocol", _PROTOCOL)
    return evaluation_page(to_record(found, data, index, command, {"spec": f"zoo:{question.model}", "weights": None}))
