"""`train --track`: what TensorBoard shows is what the log says, once, however often the run was stopped."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nofreelunch.cli import main
from nofreelunch.training.events import Epoch, Started, Step
from nofreelunch.training.track import tracked
from training_toy import toy_data


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def test_the_course_of_a_run_is_that_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    data = toy_data(256)
    images = {f"x_{part}": split.x[:, 0].numpy() for part, split in (("train", data.train), ("test", data.test))}
    np.savez("toy.npz", y_train=data.train.y.numpy(), y_test=data.test.y.numpy(), **images)
    options = ["--arch", "linear", "--epochs", "3", "--batch-size", "16", "--holdout", "0.25", "--lr", "0.02"]
    assert main(["train", "--data", "npz:toy.npz", *options, "--track", "--out", "run"]) == 0
    logged = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    shown = scalars(Path("run"))
    for event, names in {"step": ("loss", "accuracy", "lr"), "epoch": ("clean", "robust")}.items():
        for name in names:
            expected = [(line["step"], np.float32(line[name])) for line in logged if line["event"] == event]
            assert expected
            assert shown[f"{event}/{name}"] == expected


def started(step: int) -> Started:
    return Started(step, 30, 1.0, 480, 16, 32, 10, True, 0.1)


def test_what_a_killed_process_told_of_later_steps_is_struck_out(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for step, loss in ((0, 2.0), (10, 1.0)):  # the second process goes on from step 10
        with tracked(tmp_path, lambda event: None) as tell:
            tell(started(step))
            for count in range(step + 1, 31 if step else 25):
                tell(Step(count, count / 30, loss, 0.5, 0.1, 0.1))
    with tracked(tmp_path, lambda event: None) as tell:
        tell(started(30))
        tell(Epoch(30, 1.0, 0.9, 0.5, 32, 0.6))
    shown = scalars(tmp_path)
    assert shown["step/loss"] == [(10, 2.0), (20, 1.0), (30, 1.0)]
    assert shown["epoch/clean"] == [(30, np.float32(0.9))]


def test_without_tensorboard_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["train", "--data", "mnist", "--epochs", "0.01", "--track", "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'nofreelunch[track]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
