"""`summary`: every setting gives numbers that are right, or one sentence; never NaN, an infinity or a long wait."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scipy.stats import norm

from nofreelunch.errors import InputError
from nofreelunch.theory import GaussianModel, best_robust_accuracy, fit_svm, summary, transfer_accuracy

SETTINGS = [
    (d, eta, p, eps)
    for d, p in ((1, 0.5), (10**8, 0.999), (1000, 0.7))
    for eta in (0.0, 4 / math.sqrt(d), 0.4)
    for eps in (0.0, eta * (1 - 1e-9), eta * (1 + 1e-9), 2 * eta, 1.0)
]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    else:
        yield path, value


@pytest.mark.parametrize(("d", "eta", "p", "eps"), SETTINGS)
def test_every_setting_gives_numbers_or_sentences(d: int, eta: float, p: float, eps: float) -> None:
    start = time.process_time()
    quantities = summary(d, eta, p, eps)
    assert time.process_time() - start < 5
    assert json.loads(json.dumps(quantities, allow_nan=False)) == quantities
    for path, value in leaves(quantities):
        assert isinstance(value, (bool, int, float, str)), path
        if isinstance(value, str):
            assert " " in value
        elif ("accuracy" in path and "theorem" not in path) or "transfer" in path:
            assert -1e-15 <= value <= 1 + 1e-15, path
        elif path.endswith("residual"):
            assert value <= 1e-9, path


def test_the_paper_s_setting() -> None:
    eta = 0.12649110640673517
    model = GaussianModel(1000, eta)
    quantities = summary(1000, eta, 0.7, 2 * eta)
    accuracy, svms = quantities["accuracy"], quantities["svm_of_unit_norm"]
    assert accuracy["average"]["clean"] == pytest.approx(norm.cdf(4), abs=1e-9)
    assert accuracy["average"]["linf_full"] == pytest.approx(norm.cdf(-4), abs=1e-9)
    assert accuracy["x1_alone"]["linf_full"] == pytest.approx(0.7, abs=1e-9)
    assert accuracy["x1_alone"]["l2_full"] == pytest.approx(0.7, abs=1e-9)  # eps is below 1
    assert svms["standard_svm"]["w1"] == fit_svm(model).w1
    assert (svms["adversarial_svm"]["w1"], svms["adversarial_svm"]["v"]) == (1.0, 0.0)
    assert accuracy["adversarial_svm"] == accuracy["x1_alone"]
    full = quantities["frontier"]["full"]
    assert full["most_robust"] == {"clean_accuracy": pytest.approx(0.7), "robust_accuracy": pytest.approx(0.7)}
    middle = full["clean_accuracy"][50]
    assert full["robust_accuracy"][50] == pytest.approx(best_robust_accuracy(model, middle, 2 * eta), abs=1e-12)
    theorem = quantities["theorem_2_1"]
    assert theorem["factor"] == pytest.approx(7 / 3)
    assert theorem["holds_here"]
    assert theorem["attained_at_clean_accuracy"] == 0.7
    last = quantities["frontier"]["full"]["most_accurate"]
    gap = theorem["bound_at_most_clean_accuracy"] - last["robust_accuracy"]
    assert theorem["largest_gap_to_frontier_at_2_eta"] == pytest.approx(gap, abs=1e-12)
    assert quantities["thresholds"]["theorem_2_2_window"] == [pytest.approx(2 * eta), pytest.approx(0.4)]
    assert quantities["thresholds"]["x1_alone_optimal"] == [pytest.approx(eta), pytest.approx(0.4)]
    standard = fit_svm(model).weights(1000)
    average = [0.0, *[1.0] * 1000]
    exact = transfer_accuracy(model, standard, average, 2 * eta)
    assert quantities["transfer"]["from_standard_svm"]["to_average"] == pytest.approx(exact, abs=1e-12)
    assert exact < 1e-4
    assert quantities["transfer"]["from_x1_alone"]["to_average"] == accuracy["average"]["clean"]


def test_what_does_not_exist_says_so() -> None:
    quantities = summary(100, 0.4, 0.7, 1.0)
    assert "no lam gives" in quantities["svm_of_unit_norm"]["adversarial_svm"]
    assert "can hide x_1" in quantities["frontier"]["full"]
    assert "empty" in quantities["thresholds"]["theorem_2_2_window"]
    assert not summary(100, 0.4, 0.7, 0.7)["theorem_2_1"]["holds_here"]
    assert "never" in summary(100, 0.4, 0.7, 0.1)["thresholds"]["x1_alone_optimal"]


@pytest.mark.parametrize(
    "arguments", [(0, 0.1, 0.7, 0.1), (9, -1.0, 0.7, 0.1), (9, 0.1, 1.2, 0.1), (9, 0.1, 0.7, -1.0)]
)
def test_bad_input_is_an_input_error(arguments: tuple[int, float, float, float]) -> None:
    with pytest.raises(InputError):
        summary(*arguments)
