"""A sweep: every point once, whatever stops it; one table, one plot; one sentence for a spec that is not one."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bad_uses import _no_type_checker
from nofreelunch import drawing
from nofreelunch.cli import main
from nofreelunch.data import load_data
from nofreelunch.data.packed import stream, write_packed
from nofreelunch.errors import InputError
from nofreelunch.sweep import Task, grid, read_spec
from nofreelunch.sweep.plot import plot
from nofreelunch.sweep.status import Status, status
from nofreelunch.sweep.table import Row, label
from nofreelunch.sweep.work import load, located, read_scores, work
from nofreelunch.threats import L2, Linf
from nofreelunch.training.events import Event, Started, Step
from nofreelunch.training.folder import MODEL
from nofreelunch.training.start import own_files_digest
from sweep_toy import SPEC, STEPS, write_spec

__all__ = ["_no_type_checker"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    load.cache_clear()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy sweep, carried out without interruption."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("swept")
    assert main(["sweep", str(write_spec(folder)), "--out", str(folder / "out"), "--device", "cpu"]) == 0
    return folder / "out"


def tasks_of(spec: Path, out: Path) -> list[Task]:
    sweep = read_spec(str(spec))
    source = sweep.points[0].data
    return [Task(point, source, load(source, None).digest, out, None, "cpu", 0.0) for point in sweep.points]


def written(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("points/**/*.*") if path.name != ".lock"}


def test_there_is_one_row_a_point_and_a_picture(swept: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((swept / "table.csv").read_text())))
    assert [(float(row["eps"]), int(row["seed"])) for row in rows] == [
        (eps, seed) for eps in (0, 0.05, 0.08, 0.1) for seed in (0, 1)
    ]
    assert {row["recipe"] for row in rows[:2]} == {"standard"}
    robust = [int(row["robust_correct"]) / int(row["robust_total"]) for row in rows]
    assert max(robust[:2]) < 0.1
    assert min(robust[-2:]) > 0.8
    assert (swept / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert b"clean accuracy" in (swept / "plot.svg").read_bytes()
    assert len(list((swept / "points").iterdir())) == 8


def test_the_same_again_does_nothing_and_says_the_same(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, before = (swept / "table.csv").read_bytes(), written(swept)
    assert main(["sweep", str(swept.parent / "toy.toml"), "--out", str(swept), "--device", "cpu"]) == 0
    assert (swept / "table.csv").read_bytes() == table
    assert written(swept) == before
    assert "8 of 8 points done" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked")
def test_another_exam_trains_nothing_again(swept: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, threats='["linf 0.05", "l2 0.5"]', n="50")
    before = written(shutil.copytree(swept, tmp_path / "out"))
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    after = written(tmp_path / "out")
    assert before.items() <= after.items()
    assert {path.name.split("-")[0] for path in after.keys() - before.keys()} == {"result"}
    assert len(after) == len(before) + 8


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("cut", [1, 5, STEPS, STEPS + 2])
def test_a_point_goes_on_where_it_was_stopped(swept: Path, tmp_path: Path, cut: int) -> None:
    """Nothing is computed twice but the step that was not saved yet."""
    task, made = tasks_of(swept.parent / "toy.toml", tmp_path)[-1], list[int]()

    def report(event: Event) -> None:
        made.extend([event.step] if isinstance(event, Step) else [])
        if len(made) == cut and isinstance(event, Step):
            raise Killed

    try:
        work(task, report)
    except Killed:
        assert status(task).phase == "training"
        work(task, report)
    assert len(made) == STEPS + (cut <= STEPS)
    assert status(task) == Status("done")
    assert read_scores(task) == read_scores(tasks_of(swept.parent / "toy.toml", swept)[-1])


@pytest.mark.usefixtures("unchecked")
def test_a_killed_sweep_ends_like_one_that_was_not(swept: Path, tmp_path: Path) -> None:
    whole = (swept.parent / "toy.toml").read_text()
    spec = spec_of(tmp_path, whole.replace('eps = [0, "1/20", 0.08, 0.1]', "eps = [0.1, 0]"))
    arguments = ["sweep", str(spec), "--out", str(tmp_path), "--device", "cpu"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, "-m", "nofreelunch", *arguments], stdout=quiet, stderr=quiet) as process:
        while not list(tmp_path.glob("points/*/training/state.json")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "table.csv").exists()
    assert main(arguments) == 0
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 5
    assert set(lines) <= set((swept / "table.csv").read_text().splitlines())


@pytest.mark.usefixtures("unchecked")
def test_a_point_that_fails_leaves_the_others_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = SPEC.replace("lr = 0.02\n", "").replace("seed = [0, 1]", "lr = [0.02, 1e38]")
    spec = write_spec(tmp_path, content, eps="[0.1]")
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "linf 0.1, lr 1e+38: " in err
    assert err.splitlines()[-1] == "failed: 1 of 2 points failed; the same command tries them again"
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == 2
    assert "0.02" in out


def test_a_damaged_point_leaves_the_others_alone(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(swept, tmp_path / "out")
    spec, (damaged, sound, *_) = swept.parent / "toy.toml", sorted((tmp_path / "out").glob("points/*"))
    for point in (damaged, sound):
        next(point.glob("result-*.json")).unlink()
    model = damaged / "training" / MODEL
    model.write_bytes(model.read_bytes()[:-9])
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert f"{model} is" in err
    assert f"remove {damaged / 'training'} to have it trained again" in err
    assert err.splitlines()[-1].startswith("failed: 1 of 8 points failed")
    assert list(sound.glob("result-*.json"))
    assert not list(damaged.glob("result-*.json"))


def test_other_data_under_the_same_name_are_refused(swept: Path, tmp_path: Path) -> None:
    task = tasks_of(swept.parent / "toy.toml", tmp_path)[0]
    with pytest.raises(InputError, match="is other data here"):
        work(Task(task.point, task.source, "0" * 64, tmp_path, None, "cpu"))


@pytest.mark.usefixtures("unchecked")
def test_a_point_is_another_where_the_model_that_it_starts_from_is(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = SPEC.replace("epochs", 'start = "begun/model.safetensors"\nepochs')
    spec = write_spec(tmp_path, content, eps="[0.1]", seed="[0]")
    monkeypatch.chdir(tmp_path)
    for training in sorted(swept.glob("points/*/training"))[:2]:
        shutil.copytree(training, "begun", dirs_exist_ok=True)
        assert main(["sweep", str(spec), "--out", "out", "--device", "cpu"]) == 0
    assert len(list(tmp_path.glob("out/points/*"))) == 2


def test_a_model_to_start_from_is_found_from_anywhere_and_is_the_same(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tasks_of(swept.parent / "toy.toml", tmp_path)[-1]
    monkeypatch.chdir(next(swept.glob("points/*/training")))
    point = located(replace(plain.point, config=replace(plain.point.config, start=MODEL)))
    task = replace(plain, point=point, own_files_digest=own_files_digest(point.config.start, point.config.arch))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is another one here"):
        work(replace(task, own_files_digest="0" * 64))
    work(task)
    assert status(task) == Status("done")
    assert own_files_digest("zoo:mnist-standard", "linear") == ""
    with pytest.raises(InputError, match="cannot read"):
        own_files_digest("nowhere.safetensors", "linear")


@pytest.mark.usefixtures("unchecked")
def test_a_protocol_says_whether_it_is_to_be_trusted(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, eps="[0.1]", seed="[0]", attack='"pgd-10"')
    spec.write_text(spec.read_text().replace('attack = "pgd-10"', 'protocol = "quick"'))
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert next(tmp_path.glob("out/points/*/evaluation-*/evaluation.json")).stat().st_size
    row = next(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))
    assert row["by"] == "quick"
    assert row["verdict"] in ("trusted", "doubtful")


def test_a_dry_run_counts_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path)
    tasks = tasks_of(spec, tmp_path / "out")
    work(tasks[-1])
    before = written(tmp_path)
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--device", "cpu", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "5 x linf 0.05, seed 0: 12 steps of 32 images, " in said
    assert "2 x standard, seed 0: 12 steps of 32 images, 384 forward and backward passes" in said
    assert said.index("standard") < said.index("linf")  # as in the grid
    assert "8 points, 7 to be trained: " in said
    assert written(tmp_path) == before


def spec_of(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(content)
    return path


def test_a_whole_number_and_the_same_with_a_point_are_one_setting(tmp_path: Path) -> None:
    preset = 'preset = "laptop"\n[[grid]]\ndata = ["mnist"]\nthreat = ["linf"]\neps = [0.3]\n'
    spelt, implied = (read_spec(str(spec_of(tmp_path, preset + more))).points for more in ("epochs = [6]", ""))
    assert [point.config.digest for point in spelt] == [point.config.digest for point in implied]


def test_a_setting_of_the_grid_goes_before_that_of_all_points(tmp_path: Path) -> None:
    content = """
    preset = "laptop"
    [train]
    data = "mnist"
    lr = "1/100"
    [[grid]]
    threat = ["linf"]
    eps = [0, 0.3]
    recipe = ["pgd-at", "trades"]
    [[grid]]
    threat = ["l2", "linf"]
    eps = [0]
    lr = [0.01, 0.5]
    [evaluate]
    attack = "fgsm"
    [evaluate.threats]
    mnist = ["l2 3/2"]
    """
    spec = read_spec(str(spec_of(tmp_path, content)))
    assert [(point.config.threat, point.config.recipe, point.config.lr) for point in spec.points] == [
        (None, "pgd-at", 0.01),
        (Linf(0.3), "pgd-at", 0.01),
        (Linf(0.3), "trades", 0.01),
        (None, "pgd-at", 0.5),
    ]
    assert {point.config.augment for point in spec.points if not point.config.threat} == {"crop"}  # the preset's
    assert {point.config.eps_warmup for point in spec.points if point.config.threat} == {0.3}
    assert {point.exam.threats for point in spec.points} == {(L2(1.5),)}
    assert spec.varied == ("eps", "recipe", "lr")
    assert label(spec.points[2], spec.varied) == "linf 0.3, recipe trades, lr 0.01"


def test_a_part_of_a_data_set_has_the_presets_of_the_whole(tmp_path: Path) -> None:
    content = (
        'preset = "gpu"\n[train]\nthreat = "linf"\neps = 0.005\n[[grid]]\ndata = ["restricted-imagenet:release"]\n'
    )
    (point,) = read_spec(str(spec_of(tmp_path, content))).points
    assert (point.data, point.config.arch) == ("restricted-imagenet:release", "resnet50")


def test_a_packed_file_has_the_presets_of_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_packed(path, stream(load_data("cifar10-sample")))
    content = f'preset = "laptop"\n[train]\ndata = "{path}"\n[grid]\neps = [0]\nthreat = ["linf"]\n'
    with pytest.raises(InputError, match='unknown data set with presets "cifar10-sample"'):
        read_spec(str(spec_of(tmp_path, content)))
    write_packed(path, replace(stream(load_data("cifar10-sample")), name="cifar10"))
    grid._family.cache_clear()
    (point,) = read_spec(str(spec_of(tmp_path, content))).points
    assert point.config.arch == "cifar-resnet"


def test_a_recipe_or_an_attack_goes_before_the_attack_of_the_preset(tmp_path: Path) -> None:
    content = 'preset = "laptop"\n[train]\ndata = "mnist"\nthreat = "linf"\neps = 0.3\n'
    content += '[[grid]]\nrecipe = ["pgd-at", "n-fgsm"]\n[[grid]]\nattack = ["pgd-40"]'
    spec = read_spec(str(spec_of(tmp_path, content)))
    configs = [(point.config.recipe, point.config.attack, point.config.step_size) for point in spec.points]
    assert configs == [
        ("pgd-at", "pgd-5", pytest.approx(0.1)),
        ("n-fgsm", None, None),
        ("bullet-train", "pgd-40", None),
    ]


def test_without_threats_a_model_is_examined_within_its_own(tmp_path: Path) -> None:
    spec = read_spec(str(spec_of(tmp_path, '[train]\ndata = "mnist"\nthreat = "l2"\n[grid]\neps = [0, 1.5]')))
    assert [point.exam.threats for point in spec.points] == [(L2(1.5),), (L2(1.5),)]
    assert {point.exam.method for point in spec.points} == {"quick"}


def test_every_sweep_of_the_package_can_be_read() -> None:
    figure = read_spec("figure-1")
    assert len(figure.points) == 3 * 7 + 3 * 7 + 7
    assert {point.exam.threats for point in figure.points if point.data == "mnist"} == {(Linf(0.3), L2(1.5))}
    assert figure.needs.gpus == 1
    seeds = [point.config.seed for point in read_spec("mnist-seeds").points]
    assert sorted(seeds) == sorted(5 * [0, 1, 2])


def test_the_file_in_the_manual_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "sweep.md").read_text()
    content = page.partition("```\npreset")[2].partition("```")[0]
    spec = read_spec(str(spec_of(tmp_path, f"preset{content}")))
    assert len(spec.points) == 12
    assert spec.needs.gpus == 0.25


GOOD = '[train]\ndata = "mnist"\nthreat = "linf"\neps = 0.1\n[grid]\nseed = [0]\n'
BAD = {
    "no TOML": ("[grid\n", "is not TOML"),
    "no text": (b"\xff\xfe", "is not text in UTF-8"),
    "no grid": ('[train]\ndata = "mnist"', "there is no [grid]"),
    "an empty grid": ('[train]\ndata = "mnist"\n[grid]', "[grid] is empty"),
    "an empty list": (GOOD.replace("[0]", "[]"), "seed of [grid] must be a list of one value or more, got []"),
    "no list": (GOOD.replace("[0]", "0"), "seed of [grid] must be a list"),
    "a grid that is none": ('grid = 3\n[train]\ndata = "mnist"', "[grid] is empty"),
    "an unknown section": (f"{GOOD}[evalute]\nn = 3", 'unknown section "evalute"; did you mean "evaluate"?'),
    "a section that is none": (f"train = 3\n{GOOD.partition('[grid]')[1]}\nseed = [0]", "train must be a section"),
    "an unknown setting": (GOOD.replace("eps", "epss"), 'unknown setting "epss"; did you mean "eps"?'),
    "an unknown axis": (GOOD.replace("seed", "sead"), 'unknown setting "sead"; did you mean "seed"?'),
    "a seed that is no number": (GOOD.replace("[0]", '["0"]'), "seed must be a whole number, got '0'"),
    "a seed that is no whole number": (GOOD.replace("[0]", "[0.5]"), "seed must be a whole number, got 0.5"),
    "a seed that is true": (GOOD.replace("[0]", "[true]"), "seed must be a whole number, got True"),
    "a negative seed": (GOOD.replace("[0]", "[-1]"), "seed must be a whole number of at least 0"),
    "eps in words": (GOOD.replace("0.1", '"much"'), '"much" is not a number'),
    "eps is nan": (GOOD.replace("0.1", "nan"), "nan"),
    "eps is true": (GOOD.replace("0.1", "true"), "eps must be a number"),
    "eps is negative": (GOOD.replace("0.1", "-0.1"), "eps must be in"),
    "code": (GOOD.replace("0.1", "\"__import__('os')\""), "is not a number"),
    "a threat without eps": (GOOD.replace("eps = 0.1\n", ""), "threat and eps go together"),
    "an unknown threat": (GOOD.replace("linf", "l7"), 'unknown threat "l7"'),
    "an unknown data set": (GOOD.replace('"mnist"', '"mnits"'), 'unknown data set "mnits"; did you mean "mnist"?'),
    "no data": (GOOD.replace('data = "mnist"\n', ""), "data is missing"),
    "an unknown architecture": (GOOD.replace("seed = [0]", 'arch = ["resnet51"]'), 'did you mean "resnet50"?'),
    "an unknown preset": ('preset = "lap"\n' + GOOD, 'unknown preset "lap"; did you mean "laptop"?'),
    "a preset that is no name": ("preset = 3\n" + GOOD, "preset must be a name"),
    "settings that do not suit the data": (GOOD.replace("seed = [0]", "batch_size = [70000]"), "batch_size must be"),
    "an eps that no image is away": (
        GOOD.replace("eps = 0.1\n", "").replace("linf", "l2").replace("seed = [0]", "eps = [1.5, 128]"),
        "did you mean 128/255",
    ),
    "too many points": (GOOD.replace("[0]", str(list(range(10_001)))), "the grid has 10001 points"),
    "an unknown exam setting": (f"{GOOD}[evaluate]\nm = 3", 'unknown setting of [evaluate] "m"'),
    "a number of images that is none": (
        f"{GOOD}[evaluate]\nn = inf",
        "n must be a whole number of at least 1, got inf",
    ),
    "an unknown attack": (f'{GOOD}[evaluate]\nattack = "pdg-40"', 'did you mean "pgd-40"?'),
    "an unknown protocol": (f'{GOOD}[evaluate]\nprotocol = "slow"', 'unknown protocol "slow"'),
    "a protocol that is no name": (f"{GOOD}[evaluate]\nprotocol = 3", "protocol of [evaluate] must be a name"),
    "two ways to examine": (f'{GOOD}[evaluate]\nprotocol = "quick"\nattack = "fgsm"', "give either protocol or attack"),
    "no images": (f"{GOOD}[evaluate]\nn = 0", "n must be a whole number of at least 1"),
    "too many images": (f"{GOOD}[evaluate]\nn = 10001", "n must be at most the size of the split, 10000"),
    "threats that are no list": (f'{GOOD}[evaluate]\nthreats = "linf 0.1"', "threats of [evaluate] must be a list"),
    "a threat without a norm": (f"{GOOD}[evaluate]\nthreats = [0.1]", "threats of [evaluate] must be a list"),
    "a threat for other data": (
        f'{GOOD}[evaluate.threats]\nmnits = ["linf 0.1"]',
        'unknown data set of [evaluate.threats] "mnits"; did you mean "mnist"?',
    ),
    "a seed that no generator takes": (GOOD.replace("[0]", f"[{2**64}]"), "seed must be below 2^63"),
    "needs that are no number": (f'{GOOD}[run]\ngpus = "all"', "gpus must be a number in [0, inf), got 'all'"),
    "needs that are a table": (f"{GOOD}[run]\ncpus = {{}}", "cpus must be a number in [0, inf), got {}"),
    "negative needs": (f"{GOOD}[run]\ncpus = -1", "cpus must be in [0, inf)"),
    "unknown needs": (f"{GOOD}[run]\ngpu = 1", 'unknown setting of [run] "gpu"; did you mean "gpus"?'),
    "a large file": (f"{GOOD}#{'x' * 2**20}", "more than a sweep can need"),
}


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_spec_gets_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, expected = BAD[name]
    (tmp_path / "bad.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["sweep", "bad.toml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert expected in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_a_sweep_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "figure-11"]) == 2
    assert 'unknown sweep "figure-11"; did you mean "figure-1"?' in capsys.readouterr().err
    assert main(["sweep", "nowhere.toml"]) == 2
    assert "there is no file nowhere.toml" in capsys.readouterr().err


def test_ray_is_asked_for_in_one_sentence_and_imported_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, eps="[0.1]", seed="[0]")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--ray", "auto"]) == 2
    assert "pip install 'nofreelunch[sweep]'" in capsys.readouterr().err
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0


def test_a_status_is_read_from_whatever_is_there(swept: Path, tmp_path: Path) -> None:
    task = tasks_of(swept.parent / "toy.toml", tmp_path)[0]
    assert status(task) == Status("waiting")
    log = task.training / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("")
    assert status(task) == Status("waiting")
    started = {"event": "started", "step": 0, "steps": 70}
    lines = [json.dumps(started), *(json.dumps({"event": "step", "step": 10 * k}) for k in range(1, 500))]
    log.write_text("\n".join(lines) + '\n{"event": "step", "st')
    assert status(task) == Status("training", 4990, 70)
    assert str(status(task)) == "training, step 4990 of 70"


def test_a_plot_has_a_line_for_each_threat_and_setting(swept: Path) -> None:
    """Two seeds make one dot; a standard model begins the line of each norm."""
    tasks = tasks_of(swept.parent / "toy.toml", swept)
    rows = [Row(task.name, task.point, score) for task in tasks for score in read_scores(task)]
    figure = plot(rows, ("eps", "seed"))
    clean, robust = figure.axes
    assert len(clean.containers) == len(robust.containers) == 1
    x, y = robust.containers[0].lines[0].get_data()
    assert list(x) == [0, 0.05, 0.08, 0.1]
    expected = [sum(row.score.robust.rate for row in rows[k : k + 2]) / 2 for k in range(0, 8, 2)]
    assert list(y) == pytest.approx([100 * rate for rate in expected])
    by_seed = plot(rows, ("seed",)).axes[1]
    assert by_seed.get_xlabel() == "training eps"


def test_numbers_beside_nothing_are_words_on_the_axis(swept: Path, tmp_path: Path) -> None:
    """Two grids, of which one has no step_size."""
    grids = "[[grid]]\nstep_size = [0.01, 0.02]\n[[grid]]\nseed = [0]\n[evaluate]"
    spec = write_spec(tmp_path, SPEC.partition("[grid]")[0] + "eps = 0.1\n" + grids)
    found, score = read_spec(str(spec)), read_scores(tasks_of(swept.parent / "toy.toml", swept)[-1])[0]
    figure = plot([Row("point", point, score) for point in found.points], found.varied)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["0.01", "0.02", ""]


def test_a_table_is_there_before_the_plot_is_drawn(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(swept, tmp_path / "out", ignore=shutil.ignore_patterns("table.csv"))
    monkeypatch.setattr(drawing, "drawn", lambda *_: pytest.fail("cannot be drawn"))
    with pytest.raises(pytest.fail.Exception):
        main(["sweep", str(swept.parent / "toy.toml"), "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert (tmp_path / "out" / "table.csv").read_bytes() == (swept / "table.csv").read_bytes()


def test_events_begin_with_how_far_it_is(swept: Path, tmp_path: Path) -> None:
    task, events = tasks_of(swept.parent / "toy.toml", tmp_path)[0], list[Event]()
    work(task, events.append)
    assert isinstance(events[0], Started)
    assert events[0].steps == STEPS
    work(task, events.append)
    assert sum(isinstance(event, Started) for event in events) == 1
