"""`nofreelunch train` and `reproduce --retrain`: options over presets, runs that are stopped or shared, bad input.

As a script: the command line, in processes of which one may die in mid-run (variable DIES, a rank).
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nofreelunch.cli import main, parse
from nofreelunch.cli.train import Train
from nofreelunch.data import load_data
from nofreelunch.experiments import deep, figure_5, registry, retrained, theorem_2_1
from nofreelunch.models import ARCHITECTURES, load_model
from nofreelunch.threats import L2, Linf, Threat
from nofreelunch.training import RECIPES, TrainConfig
from nofreelunch.training.augment import AUGMENTS
from nofreelunch.training.loop import Loop
from nofreelunch.training.optimisers import OPTIMISERS
from nofreelunch.training.presets import preset
from nofreelunch.training.schedules import SCHEDULES
from nofreelunch.workspace import digest, to_json
from training_toy import toy_data

TABLES = {
    "arch": ARCHITECTURES, "recipe": RECIPES, "schedule": SCHEDULES, "optimiser": OPTIMISERS, "augment": AUGMENTS,
}  # fmt: skip
ROBUST = ["--threat", "linf", "--eps", "0.1"]
SHORT = ["--arch", "linear", "--epochs", "3", "--batch-size", "16", "--holdout", "0.25", "--lr", "0.02"]
BAD = {
    "unknown arch": (["--arch", "linaer"], 'unknown architecture "linaer"; did you mean "linear"?'),
    "unknown data": (["--data", "mnits"], 'unknown data set "mnits"; did you mean "mnist"?'),
    "unknown recipe": ([*ROBUST, "--recipe", "trade"], 'did you mean "trades"?'),
    "unknown attack": ([*ROBUST, "--attack", "pdg-10"], 'did you mean "pgd-10"?'),
    "unknown norm": (["--threat", "linff", "--eps", "0.1"], 'did you mean "linf"?'),
    "unknown schedule": (["--schedule", "cosin"], 'did you mean "cosine"?'),
    "unknown preset": (["--data", "mnist", "--preset", "lap"], 'unknown preset "lap"; did you mean "laptop"?'),
    "no such presets": (["--preset", "gpu"], "known: cifar10, mnist"),
    "images that do not fit": (["--arch", "resnet50"], "resnet50 takes images of 3 channels, got 1"),
    "eps in grey levels": (["--threat", "linf", "--eps", "8"], "did you mean 8/255 = 0.03137?"),
    "eps beyond all images": (["--threat", "l2", "--eps", "80"], "did you mean 80/255 = 0.3137?"),
    "eps is no number": (["--threat", "linf", "--eps", "small"], '"small" is not a number'),
    "eps is nan": (["--threat", "linf", "--eps", "nan"], '"nan" is not a number'),
    "eps is negative": (["--threat", "linf", "--eps", "-1"], "eps must be in"),
    "threat without eps": (["--threat", "linf"], "--threat linf needs --eps"),
    "eps without threat": (["--eps", "0.1"], "--eps 0.1 needs --threat"),
    "recipe without threat": (["--recipe", "trades"], "--recipe trades needs an adversary"),
    "step size without threat": (["--step-size", "0.1"], "--step-size 0.1 needs an adversary"),
    "an attack for a recipe that has its own": ([*ROBUST, "--recipe", "n-fgsm", "--attack", "pgd-5"], 'take "pgd-at"'),
    "an attack without gradient": ([*ROBUST, "--attack", "square"], "take one of the pgd-... attacks"),
    "lr is no number": (["--lr", "fast"], '"fast" is not a number'),
    "batch size is no count": (["--batch-size", "1.5"], '"1.5" is not a whole number'),
    "batch larger than the data": (["--batch-size", "500"], "batch_size must be at most"),
    "no epochs": (["--epochs", "0"], "epochs must be in (0"),
    "no such device": (["--device", "cuda:99"], "cuda:99"),
    "unknown option": (["--epz", "1"], 'did you mean "--eps"?'),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    data, path = toy_data(256), tmp_path_factory.mktemp("data") / "toy.npz"
    images = {f"x_{part}": split.x[:, 0].numpy() for part, split in (("train", data.train), ("test", data.test))}
    np.savez(path, y_train=data.train.y.numpy(), y_test=data.test.y.numpy(), **images)
    return f"npz:{path}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Defaults lead into a folder of the test's own."""
    torch.set_num_threads(1)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def events(out: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_every_setting_is_an_option_and_every_name_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    options = {field.name for field in dataclasses.fields(Train)}
    assert {field.name for field in dataclasses.fields(TrainConfig)} <= options
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    page = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for option, table in TABLES.items():
        described = page.split(f"--{option} TEXT ")[1].split(" --")[0]
        assert all(re.search(rf"(?<![\w-]){name}(?![\w-])", described) for name in table), described


def test_a_run_leaves_its_files_and_one_summary(toy: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--data", toy, *SHORT, *ROBUST]
    assert main(command) == 0
    out, err = capsys.readouterr()
    folder = elsewhere / "runs" / "train"
    assert {"model.safetensors", "model.json", "log.jsonl", "state.safetensors", "state.json"} <= files(folder)
    model = load_model(str(folder / "model.safetensors"))
    metrics = model.card.metrics
    lines = out.splitlines()
    assert lines[0] == f"model: runs/train/model.safetensors, the weights of epoch {metrics['epoch']:.2f}"
    assert f"clean accuracy on held-out training images: {metrics['held_out_clean']:.1%} of 64" in lines[1]
    assert f"{metrics['held_out_robust']:.1%} of 64" in lines[2]
    assert lines[3].endswith("--threat linf --eps 0.1")
    for word in ("settings: nofreelunch train", "training 36 steps", "epoch 3.00: held-out", "finished after 36"):
        assert word in err
    content = (folder / "model.safetensors").read_bytes()
    assert main(command) == 0
    again, err = capsys.readouterr()
    assert again == out
    assert "all 36 steps of this run were made before" in err
    assert (folder / "model.safetensors").read_bytes() == content


@pytest.mark.usefixtures("unchecked")
def test_the_settings_that_are_shown_are_those_that_are_kept(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "trades", "--attack", "pgd-5", "--step-size", "1/30", "--ema", "0.9", "--augment", "crop"]
    assert main(["train", "--data", toy, *SHORT, *ROBUST, *options, "--seed", "3", "--out", str(tmp_path / "a")]) == 0
    shown = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("settings: "))
    _, *words = shlex.split(shown.removeprefix("settings: "))
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    first, second = (load_model(str(tmp_path / name / "model.safetensors")) for name in "ab")
    config = TrainConfig.from_plain(first.card.recipe)
    assert (config.recipe, config.attack, config.ema, config.augment, config.seed) == (
        "trades",
        "pgd-5",
        0.9,
        "crop",
        3,
    )
    assert (config.step_size, config.epochs, config.threat) == (1 / 30, 3.0, Linf(0.1))
    assert second.card == first.card
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def config(*options: str) -> TrainConfig:
    command = parse(["train", *options])
    assert isinstance(command, Train)
    return command.config(command.data)


def test_what_is_left_out_comes_from_the_preset_and_what_is_given_wins() -> None:
    robust = ("--threat", "linf", "--eps", "0.3")
    assert config("--data", "mnist", *robust) == preset("laptop", "mnist", Linf(0.3))
    assert config("--data", "mnist") == preset("laptop", "mnist")
    assert config(
        "--data", "cifar10", "--preset", "paper", "--threat", "l2", "--eps", "80/255", "--seed", "4"
    ) == preset("paper", "cifar10", L2(80 / 255), seed=4)
    changed = config("--data", "mnist", *robust, "--epochs", "1/2", "--eps-warmup", "0", "--step-size", "0.2")
    assert changed == dataclasses.replace(
        preset("laptop", "mnist", Linf(0.3)), epochs=0.5, eps_warmup=0.0, step_size=0.2
    )
    assert config("--data", "npz:x", "--arch", "linear") == TrainConfig("linear")


def test_another_attack_or_recipe_takes_the_presets_steps_away() -> None:
    robust = ("--data", "mnist", "--threat", "linf", "--eps", "0.3")
    given = preset("laptop", "mnist", Linf(0.3))
    assert given.step_size
    assert config(*robust, "--attack", "pgd-40") == dataclasses.replace(given, attack="pgd-40", step_size=None)
    assert config(*robust, "--recipe", "trades") == dataclasses.replace(given, recipe="trades")
    assert config(*robust, "--recipe", "n-fgsm") == dataclasses.replace(
        given, recipe="n-fgsm", attack=None, step_size=None
    )
    assert config("--data", "cifar10", "--threat", "linf", "--eps", "0.1", "--recipe", "pgd-at").attack is None


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(name: str, toy: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, expected = BAD[name]
    assert main(["train", "--data", toy, "--arch", "linear", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not [*elsewhere.iterdir()]


def test_data_without_presets_needs_an_architecture(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", toy]) == 2
    assert "--arch is needed" in capsys.readouterr().err


def test_an_unwritable_folder_is_answered_before_training(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", "--data", toy, *SHORT, "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_folder_of_another_run_or_version_is_refused(
    toy: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", toy, *SHORT]) == 0
    assert main(["train", "--data", toy, *SHORT, "--batch-size", "32", "--seed", "1"]) == 2
    assert "(batch_size: saved 16, now 32; seed: saved 0, now 1); give another --out" in capsys.readouterr().err
    path = elsewhere / "runs" / "train" / "state.json"
    about = json.loads(path.read_text()) | {"format": 99}
    del about["sha256"]
    path.write_bytes(to_json(about | {"sha256": digest(to_json(about))}))
    assert main(["train", "--data", toy, *SHORT]) == 2
    assert "has format 99, this version reads" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked")
def test_steps_too_short_for_the_ball_are_told_and_logged(
    toy: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["train", "--data", toy, *SHORT, *ROBUST, "--eps-warmup", "0.5", "--step-size", "0.001"]
    told = "10 steps of 0.001 cannot reach the surface of a ball of radius 0.1"
    assert main([*short, "--dry-run"]) == 0
    assert told in capsys.readouterr().err
    assert main(short) == 0
    assert capsys.readouterr().err.count(told) == 1
    assert [event["message"] for event in events(elsewhere / "runs" / "train", "notice")] == [told]


def test_a_dry_run_says_what_it_takes_and_writes_nothing(
    toy: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", toy, *SHORT, *ROBUST, "--attack", "pgd-5", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    said = {line.split()[0]: line for line in out.splitlines()}
    assert list(said) == ["settings", "examples", "passes", "time", "memory", "disk"]
    assert "36 steps of 16: 576" in said["examples"]
    assert f" {576 * 6 + 3 * 64 * 10} " in said["passes"]
    assert err == "making a few steps, to see how long they take ...\n"
    assert not [*elsewhere.iterdir()]


def launch(*arguments: str, processes: int = 1, dies: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own, or in several; `dies` is the rank of one that is killed in mid-run."""
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [__file__] if dies else ["-m", "nofreelunch"]
    command = [sys.executable, *(spread if processes > 1 else []), *start, "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIES": dies}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_signal_saves_and_the_same_command_goes_on(
    toy: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGINT ends a process of its own, SIGTERM, after three steps more, the command in this one."""
    options, state = ["--data", toy, *SHORT, "--epochs", "100000"], elsewhere / "runs" / "train" / "state.json"
    with launch(*options) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("training "):
                process.send_signal(signal.SIGINT)
            last = line
    assert process.returncode == 130
    assert last.startswith("stopped: ")
    made, update = json.loads(state.read_text())["step"], Loop.update

    def terminated(loop: Loop) -> object:
        if loop.learner.step == made + 2:
            signal.raise_signal(signal.SIGTERM)
        return update(loop)

    monkeypatch.setattr(Loop, "update", terminated)
    assert main(["train", *options]) == 143
    err = capsys.readouterr().err
    assert f"training goes on after step {made} of 1200000," in err
    assert err.splitlines()[-1].startswith("terminated: ")
    assert json.loads(state.read_text())["step"] == made + 3 > 3


@pytest.mark.usefixtures("unchecked")
def test_processes_share_a_run_and_the_death_of_one_ends_it_in_one_sentence(toy: str, tmp_path: Path) -> None:
    """Killed after step 14 of 36; the look after step 12 has saved. It goes on with two processes, and with one."""
    options = ["--data", toy, "--arch", "mnist-cnn-small", *SHORT[2:], *ROBUST]
    assert main(["train", *options, "--out", str(tmp_path / "alone")]) == 0
    expected = events(tmp_path / "alone", "step")
    assert [event["step"] for event in expected] == [10, 20, 30]
    out = tmp_path / "two"
    with launch(*options, "--out", str(out), processes=2, dies="1") as process:
        _, complaint = process.communicate()
    assert process.returncode
    (told,) = re.findall("^failed: .*", complaint, flags=re.MULTILINE) or [complaint]
    assert "failed: another process of this run ended" in told
    assert f"the last good state is that of step 12, in {out}" in told
    shutil.copytree(out, tmp_path / "one")
    with launch(*options, "--out", str(out), processes=2) as process:
        printed, complaint = process.communicate()
    assert process.returncode == 0, complaint
    assert printed.count("model: ") == 1
    assert complaint.count("training goes on after step 12 of 36") == 1
    assert main(["train", *options, "--out", str(tmp_path / "one")]) == 0
    for folder in (out, tmp_path / "one"):
        found = events(folder, "step")
        assert [event["loss"] for event in found] == pytest.approx([event["loss"] for event in expected], abs=1e-4)


def test_of_processes_that_have_not_met_the_first_one_tells(
    toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["train", "--data", toy, "--arch", "linear", "--threat", "linf"]
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 1
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert main(wrong) == 2


# --- reproduce --retrain


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Threat | None]]:
    """What `reproduce` trains, with experiments, presets and data that take a second."""
    calls: list[tuple[str, str, Threat | None]] = []

    def tiny(scale: str, data: str, threat: Threat | None, seed: int) -> TrainConfig:
        calls.append((scale, data, threat))
        return TrainConfig("linear", threat=threat, epochs=1, batch_size=500, holdout=0.0, seed=seed)

    whole = load_data("mnist")
    part = dataclasses.replace(whole, train=whole.train.take(1000), test=whole.test.take(100))
    figure = figure_5.FIGURE_5
    small = {
        scale: dataclasses.replace(each, n=16, datasets=("mnist",), retrain="")
        for scale, each in figure.presets.items()
    }
    table = {"theorem-2.1": theorem_2_1.EXPERIMENT, figure.name: dataclasses.replace(figure, presets=small)}
    monkeypatch.setattr(registry, "EXPERIMENTS", table)
    monkeypatch.setattr(retrained, "preset", tiny)
    monkeypatch.setattr(deep, "load_data", lambda name, root: part)
    return calls


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("scale", "by"), [("smoke", "laptop"), ("laptop", "laptop"), ("paper", "paper")])
def test_retrain_trains_by_the_preset_that_fits_the_scale(
    scale: str, by: str, asked: list[tuple[str, str, Threat | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "figure-5", "--scale", scale, "--retrain", "--out", "r"]) == 0
    assert asked == [(by, "mnist", threat) for threat in (None, Linf(0.3), L2(1.5))]
    err = capsys.readouterr().err
    for model in ("standard", "linf-0.3", "l2-1.5"):
        assert f"model mnist-{model}-{by}-0\ntraining 2 steps" in err
        assert (Path("r") / "models" / f"mnist-{model}-{by}-0" / "model.safetensors").exists()
    assert f"nofreelunch reproduce figure-5 --scale {scale} --retrain" in (Path("r") / "report.html").read_text()


def test_the_seed_is_that_of_the_trainings_and_the_command_says_where_the_data_are(
    asked: list[tuple[str, str, Threat | None]], tmp_path: Path
) -> None:
    command = ["reproduce", "figure-5", "--scale", "smoke", "--retrain", "--seed", "7", "--data-root", str(tmp_path)]
    assert main([*command, "--out", "r"]) == 0
    assert (Path("r") / "models" / "mnist-standard-laptop-7" / "model.safetensors").exists()
    made = json.loads((Path("r") / "results" / "figure-5.json").read_text())["command"]
    assert made.split() == ["nofreelunch", *command[:-2], f"--data-root={tmp_path}"]


@pytest.mark.usefixtures("unchecked")
def test_retrain_goes_on_where_it_was_stopped(
    asked: list[tuple[str, str, Threat | None]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(real: Callable[[Loop], object]) -> Callable[[Loop], object]:
        def update(loop: Loop) -> object:
            if loop.config.threat and loop.learner.step == 1:
                raise KeyboardInterrupt
            return real(loop)

        return update

    command = ["reproduce", "--scale", "smoke", "--retrain", "--out", "r"]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "update", dies(Loop.update))
        assert main(command) == 130
    capsys.readouterr()
    assert main(command) == 0
    err = capsys.readouterr().err
    assert "model mnist-standard-laptop-0\nall 2 steps of this run were made before" in err
    assert "theorem-2.1: unchanged, kept" in err
    about = json.loads((Path("r") / "results" / "theorem-2.1.json").read_text())
    assert about["command"] == "nofreelunch reproduce theorem-2.1 --scale smoke"


def test_missing_data_are_told_before_anything_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also at the scale whose presets train, without `--retrain`."""
    command = ["reproduce", "theorem-2.2", "table-4", "--scale", "paper", "--data", "npz:none.npz", "--out", "r"]
    assert main(command) == 2
    assert "none.npz" in capsys.readouterr().err
    assert not Path("r/results").exists()


def test_retrain_means_nothing_to_an_experiment_without_models(
    asked: list[tuple[str, str, Threat | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "theorem-2.1", "--retrain"]) == 2
    assert "--retrain means nothing to theorem-2.1" in capsys.readouterr().err
    assert asked == []


def until_death(real: Callable[[Loop], object]) -> Callable[[Loop], object]:
    """`Loop.update`, but that this process is killed after step 14."""

    def update(loop: Loop) -> object:
        if loop.learner.step == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(loop)

    return update


if __name__ == "__main__":
    if os.environ["DIES"] == os.environ["RANK"]:
        Loop.update = until_death(Loop.update)  # type: ignore[method-assign, assignment]
    sys.exit(main(sys.argv[1:]))


def test_every_preset_of_a_family_of_data_sets_is_found() -> None:
    command = parse(["train", "--data", "mine.safetensors", "--threat", "l2", "--eps", "1"])
    assert isinstance(command, Train)
    for name in ("restricted-imagenet", "restricted-imagenet:release"):
        assert command.config(name) == preset("laptop", "restricted-imagenet", L2(1.0))


def test_strict_training_stops_at_an_image_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, k in ((part, k) for part in ("train", "test") for k in "ab"):
        (tmp_path / part / k).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (28, 28), 20 * number).save(tmp_path / part / k / f"{number}.png")
    bad = tmp_path / "train" / "a" / "bad.png"
    bad.write_text("words")
    command = ["train", "--data", f"folder:{tmp_path}", "--arch", "mnist-cnn-small", "--batch-size", "4", "--dry-run"]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--strict"]) == 2
    assert f"{bad} is no image; remove or replace it, or leave out --strict" in capsys.readouterr().err
