"""Accuracy counted by several processes is the one that a plain loop counts, whether their number divides or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nofreelunch.attacks import ATTACKS
from nofreelunch.evaluation.accuracy import Examples, accuracies
from nofreelunch.models import Classifier, build, fast
from nofreelunch.rng import Streams
from nofreelunch.threats import Linf
from nofreelunch.training.devices import Devices, _spread
from training_toy import toy_data, toy_split

ATTACK, SEED = ATTACKS["pgd-10"](Linf(0.18)), 3
SPLIT = toy_split(100, 7)
CHOSEN = (tuple(range(3, 90, 2)), tuple(range(91)), (40,))  # numbers that 2 divides and does not, and too few for 2


def model() -> Classifier:
    """A classifier by the faint pattern and the block; right on most of the images."""
    made = build("linear", toy_data(64))
    difference = SPLIT.images()[1::2].mean(0) - SPLIT.images()[::2].mean(0)
    weight = next(weight for weight in made.parameters() if weight.ndim == 2)
    with torch.no_grad():
        weight.copy_(torch.stack([-difference.flatten(), difference.flatten()]))
    return made


def counted(devices: Devices) -> list[list[int]]:
    """Correct and total, clean and robust, for each choice of images; the same model in training mode."""
    found = []
    for chosen in CHOSEN:
        own = torch.tensor(chosen)[devices.rank :: devices.processes]
        classifier, examples = model().train(), Examples(SPLIT, own, batch_size=8)
        clean, robust = accuracies(classifier, fast(classifier), examples, Linf(0.18), ATTACK, SEED, devices.total)
        assert classifier.training
        found.append([int(clean.correct), clean.total, int(robust.correct), robust.total])
    return found


def test_what_lies_outside_the_ball_is_not_counted() -> None:
    classifier, examples = model(), Examples(SPLIT, torch.arange(8), batch_size=8)
    with pytest.raises(AssertionError):
        accuracies(classifier, classifier, examples, Linf(0.1), lambda model, x, y, rng: 1 - x, SEED)


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    found, classifier = [], model().eval()
    for chosen in CHOSEN:
        right = [0, 0]
        for i in chosen:
            x, y = SPLIT.images(torch.tensor([i])), SPLIT.targets[i : i + 1]
            x_adv = ATTACK(classifier, x, y, Streams.for_examples(SEED, torch.tensor([i])))
            right[0] += int(classifier(x).argmax(1) == y)
            right[1] += int(classifier(x_adv).argmax(1) == y)
        found.append([right[0], len(chosen), right[1], len(chosen)])
    assert found[1][2] not in (0, found[1][0]), "the attack must break some images and not all"
    return found


@pytest.mark.parametrize(
    ("environment", "processes", "nodes"),
    [
        ({}, 1, 1),
        ({"SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2}, 8, 2),
        ({"SLURM_NTASKS": 8, "SLURM_NNODES": 2}, 1, 1),
        ({"WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4}, 8, 2),
        ({"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4, "SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_NUM_NODES": 2}, 4, 1),
        ({"WORLD_SIZE": 8, "SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2}, 8, 2),
    ],
    ids=[
        "alone",
        "srun",
        "in an allocation, without srun",
        "torchrun",
        "torchrun on one of two nodes",
        "srun with a WORLD_SIZE of the user's",
    ],
)
def test_torchrun_is_believed_before_slurm(
    environment: dict[str, int], processes: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    assert _spread() == (processes, nodes)


def test_an_allocation_of_slurm_s_starts_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    devices = Devices("cpu", "float32")
    assert (devices.rank, devices.processes) == (0, 1)


def test_one_process(expected: list[list[int]]) -> None:
    assert counted(Devices("cpu", "float32")) == expected


def test_two_processes_agree_with_one_and_with_each_other(expected: list[list[int]], tmp_path: Path) -> None:
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *spread, __file__, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [expected, expected]


if __name__ == "__main__":
    torch.set_num_threads(1)
    these = Devices("cpu", "float32")
    (Path(sys.argv[1]) / f"{these.rank}.json").write_text(json.dumps(counted(these)))
