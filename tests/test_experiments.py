"""Experiments at their smallest: runs, saves, loads back equal, is not run twice, draws, stands in the report."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from nofreelunch.experiments.base import Experiment, Finding, Scale, beyond, compare, holds
from nofreelunch.experiments.registry import EXPERIMENTS
from nofreelunch.experiments.runner import configured, reproduce
from nofreelunch.report import write_report
from nofreelunch.workspace import Workspace

pytestmark = pytest.mark.usefixtures("unchecked")

LONG = {"figure-1", "figure-3", "figure-4", "figure-6", "figure-7"}
"""Left to `test_deep_figures`, with small models, and to the smoke run of `.ci/run`."""
SHORT = [name for name in EXPERIMENTS if name not in LONG]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def results(space: Workspace) -> dict[str, Any]:
    return {
        name: reproduce(
            EXPERIMENTS[name], EXPERIMENTS[name].presets["smoke"], space, f"reproduce {name}", lambda _: None
        )
        for name in SHORT
    }


@pytest.mark.parametrize("name", SHORT)
def test_an_experiment_is_saved_whole_and_not_run_again(name: str, space: Workspace, results: dict[str, Any]) -> None:
    experiment = EXPERIMENTS[name]
    loaded, about = space.load(name, experiment.result_type)
    for field in dataclasses.fields(experiment.result_type):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(results[name], field.name))
    assert experiment.findings(loaded) == experiment.findings(results[name])
    assert reproduce(experiment, experiment.presets["smoke"], space, "", lambda line: None) is None
    assert {"command", "seconds", "versions", "config", "alt"} <= set(about)


@pytest.mark.parametrize("name", SHORT)
def test_findings_are_sentences_with_values(name: str, results: dict[str, Any]) -> None:
    findings = EXPERIMENTS[name].findings(results[name])
    assert findings
    for finding in findings:
        assert finding.claim.endswith(".")
        assert finding.ours is not None
        assert not isinstance(finding.ours, float) or np.isfinite(finding.ours)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_scale_has_a_config(name: str) -> None:
    assert set(EXPERIMENTS[name].presets) == set(get_args(Scale))
    assert EXPERIMENTS[name].name == name


def computed(name: str, results: dict[str, Any], **changes: object) -> Experiment:
    """The experiment, but that its result is there already."""
    return dataclasses.replace(EXPERIMENTS[name], run=lambda config, space: results[name], **changes)


def test_another_config_moves_the_old_result_aside(results: dict[str, Any], tmp_path: Path) -> None:
    space, experiment = Workspace(tmp_path), computed("theorem-2.1", results)
    config = experiment.presets["smoke"]
    other = dataclasses.replace(config, seed=config.seed + 1)
    for each in (config, other):
        reproduce(experiment, each, space, "", lambda line: None)
    assert len(list((tmp_path / "results" / "previous").glob("theorem-2.1-*.json"))) == 1
    assert space.about("theorem-2.1")["config"]["seed"] == other.seed


def test_changes_apply_only_where_they_are_known() -> None:
    config = configured(EXPERIMENTS["table-4"], "smoke", {"classes": ("3", "8"), "nonsense": 1, "data": None})
    assert config.classes == ("3", "8")
    assert config.data == EXPERIMENTS["table-4"].presets["smoke"].data


def test_verdicts_are_computed() -> None:
    assert compare("c.", "w", 1.0, 1.05, tolerance=0.1).verdict == "agrees"
    assert compare("c.", "w", 1.0, 1.2, tolerance=0.1).verdict == "differs"
    assert compare("c.", "w", 1.0, 1.2, tolerance=0.1).difference == pytest.approx(0.2)
    assert holds("c.", "w", ok=False, ours="no").verdict == "refuted"
    assert beyond("c.", ours=1.0).verdict == "beyond the paper"
    assert Finding("c.", "w", "text", 1.0, "agrees").difference is None


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.labels = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in {"href", "src", "xlink:href"} and value:
                (self.links if value.startswith("#") else self.outside).append(value)
            if key == "aria-label" and value:
                self.labels += 1


def test_the_report_is_one_whole_file(space: Workspace, results: dict[str, Any]) -> None:
    path = write_report(space, tuple(SHORT))
    first = path.read_bytes()
    text = first.decode()
    page = _Page()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert all(link.startswith("data:") for link in page.outside)
    assert "<script" not in text
    assert text.count("<svg") == len(results)
    assert page.labels >= len(results)
    assert "nan" not in re.findall(r"[a-z]+", re.sub(r'"data:[^"]*"', "", text))
    assert write_report(space, tuple(SHORT)).read_bytes() == first


def test_a_damaged_result_does_not_keep_the_report_from_the_others(results: dict[str, Any], tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    for name in ("theorem-2.1", "theorem-2.2", "transferability"):
        reproduce(computed(name, results), EXPERIMENTS[name].presets["smoke"], space, "", lambda line: None)
    (tmp_path / "figures" / "theorem-2.2.svg").unlink()
    (tmp_path / "results" / "transferability.json").write_text("{")
    text = write_report(space, tuple(EXPERIMENTS)).read_text()
    assert 'id="theorem-2.1"' in text
    assert re.search(r"Not run into this folder: [^<]*theorem-2.2, transferability", text)


def test_names_in_a_result_are_text_in_the_report(results: dict[str, Any], tmp_path: Path) -> None:
    hostile = computed("theorem-2.1", results, title='<script>alert("x")</script>')
    space = Workspace(tmp_path)
    reproduce(hostile, hostile.presets["smoke"], space, "<b>", lambda line: None)
    assert "<script" not in write_report(space, ("theorem-2.1",)).read_text()
