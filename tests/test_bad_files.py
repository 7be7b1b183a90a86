"""Bad uses, lines 41 to 56: files that are missing, damaged, hostile or another's; folders; names."""

import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from bad_uses import Commands, Refused, asked, here, line, refused, refused_by_command, run
from nofreelunch import workspace
from nofreelunch.cli import main
from nofreelunch.data import bundled, cifar10, load_data
from nofreelunch.models import Classifier, load_model, save_model, zoo_names
from nofreelunch.models.classifier import Card
from nofreelunch.models.registry import assemble
from nofreelunch.output import locked
from nofreelunch.workspace import digest, to_json

__all__ = ["here"]

TRAIN = [
    "train",
    "--data",
    "npz:halves.npz",
    "--arch",
    "linear",
    "--epochs",
    "1",
    "--batch-size",
    "10",
    "--device",
    "cpu",
]
OF_HALVES = ["--data", "npz:halves.npz", "--threat", "linf", "--eps", "0.1", "--protocol", "quick"]


def model(arch: str = "linear", classes: int = 2) -> Classifier:
    return assemble(Card(arch, (1, 4, 4), classes, (0.5,), (0.25,)))


def loading(change: Callable[[], object], name: str = "m.safetensors") -> Callable[[], object]:
    """Loads a saved model after something was done to its files."""

    def load() -> object:
        save_model(model(), "m.safetensors")
        change()
        return load_model(name)

    return load


def weighing(content: Callable[[], bytes], name: str = "w.pt") -> Callable[[], object]:
    """Loads weights of others that have this content."""

    def load() -> object:
        Path(name).write_bytes(content())
        return load_model("python:toy_nets:linear", weights=name)

    return load


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(change(Path(name).read_bytes()))


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 8]) + content[-2:]


def resealed(**changes: Any) -> Callable[[], object]:
    """The JSON of a model with other values and a digest that holds, as another version would write it."""

    def change(content: bytes) -> bytes:
        about = json.loads(content) | changes
        del about["sha256"]
        return to_json({**about, "sha256": digest(to_json(about))})

    return edit("m.json", change)


def torch_saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def old(content: Any) -> bytes:
    """As torch before 1.6 saved."""
    return torch_saved(content, _use_new_zipfile_serialization=False)


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


class Calls:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = (function, arguments)

    def __reduce__(self) -> Any:
        return self.asked


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b".")
    return buffer.getvalue()


def huge() -> bytes:
    header = json.dumps(
        {"1.weight": {"dtype": "F32", "shape": [10**5, 10**4], "data_offsets": [0, 4 * 10**9]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)


def repeated() -> bytes:
    return torch_saved({**STATE, "1.bias": torch.zeros(1).expand(10**9)})


def reading(change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Reads the data after its file was changed."""

    def read() -> object:
        edit("halves.npz", change)()
        return load_data("npz:halves.npz")

    return read


STATE = {"1.weight": torch.zeros(2, 16), "1.bias": torch.zeros(2)}
NOT_SAVED = "is not a file that torch.save wrote"
REFUSED: Refused = {
    "no such model": (41, lambda: load_model("none.safetensors"), "cannot read none.safetensors: No such file"),
    "a name of 300 letters": (41, lambda: load_model("m" * 300 + ".safetensors"), "No such file"),
    "a folder": (41, loading(lambda: None, "."), "is a folder; give the file in it"),
    "an empty model": (41, loading(edit("m.safetensors", lambda _: b"")), "m.safetensors is not a safetensors file"),
    "a text": (41, loading(edit("m.safetensors", lambda _: b"words")), "m.safetensors is not a safetensors file"),
    "an empty checkpoint": (41, weighing(lambda: b""), NOT_SAVED),
    "a zip that is none": (41, weighing(lambda: zipped("a.txt")), "holds no state dict"),
    "no JSON": (41, loading(lambda: os.remove("m.json")), "cannot read m.json: No such file"),
    "a truncated model": (42, loading(edit("m.safetensors", lambda c: c[:-9])), "truncated or corrupt"),
    "a truncated JSON": (42, loading(edit("m.json", lambda c: c[:-9])), "m.json is truncated or not JSON"),
    "a truncated checkpoint": (42, weighing(lambda: torch_saved(STATE)[:-99]), NOT_SAVED),
    "one flipped bit": (43, loading(edit("m.safetensors", flipped)), "digest mismatch"),
    "one changed letter": (43, loading(edit("m.json", lambda c: c.replace(b"linear", b"linaer"))), "digest mismatch"),
    "os.system": (44, weighing(lambda: torch_saved({"a": Calls(os.system, "touch ran")})), "posix.system"),
    "eval": (44, weighing(lambda: torch_saved({"a": Calls(eval, "open('ran', 'w')")})), "eval"),
    "exec": (44, weighing(lambda: torch_saved({"a": Calls(exec, "open('ran', 'w')")})), "exec"),
    "torch.hub": (44, weighing(lambda: torch_saved({"a": Calls(torch.hub.load, "x")})), "torch.hub.load"),
    "dill": (44, weighing(lambda: zipped("a/data.pkl").replace(b".", b"cdill\n", 0)), "nothing of it was executed"),
    "objects": (44, weighing(lambda: torch_saved({"a": np.array([{}], dtype=object)})), "nothing of it was executed"),
    "an old file that calls": (44, weighing(lambda: old({"a": Calls(os.system, "touch ran")})), "posix.system"),
    "an old file, truncated": (42, weighing(lambda: old(STATE)[:-9]), "it is corrupt"),
    "an old file that lies": (45, weighing(lambda: old(STATE).replace(b"K\x20", b"J\x00\x00\x00\x7f", 1)), "corrupt"),
    "a tar": (44, weighing(tarred), NOT_SAVED),
    "TorchScript": (44, weighing(lambda: zipped("a/data.pkl", "a/code/net.py")), "holds a program"),
    "two pickles": (44, weighing(lambda: zipped("a/data.pkl", "b/data.pkl")), "holds no state dict"),
    "a small file of 4 GB": (45, weighing(huge, "w.safetensors"), "or it is truncated or corrupt"),
    "a tensor repeated": (
        45,
        weighing(lambda: torch_saved({**STATE, "1.bias": torch.zeros(1).expand(10**9)})),
        "not .2,",
    ),
    "another architecture": (
        46,
        loading(resealed(architecture="mnist-cnn-small")),
        "not fit the model: .*missing",
    ),
    "other classes": (46, loading(resealed(classes=3)), r"has shape \(2, 16\) and not \(3, 16\)"),
    "an unknown architecture": (46, loading(resealed(architecture="linaer")), 'did you mean "linear"'),
    "extra keys": (
        46,
        weighing(lambda: save({**STATE, "x": torch.zeros(1)}), "w.safetensors"),
        "x is not in the",
    ),
    "another type": (
        46,
        weighing(lambda: save({**STATE, "1.bias": torch.ones(2).long()}), "w.safetensors"),
        "type torch.int64",
    ),
    "a newer format": (47, loading(resealed(format=99)), "has format 99, this version reads up to 1"),
    "no data": (52, lambda: load_data("npz:none.npz"), "cannot read none.npz: No such file"),
    "truncated data": (52, lambda: edit("halves.npz", lambda c: c[:-50])() and load_data("npz:halves.npz"), "damaged"),
    "a changed byte": (
        52,
        lambda: edit("halves.npz", lambda c: c[:400] + b"?" + c[401:])() and load_data("npz:halves.npz"),
        "damaged",
    ),
    "another file under the name": (
        52,
        lambda: os.rename("halves.npz", "cifar10.npz") or load_data("cifar10", "."),
        "cifar10.npz does not hold CIFAR-10 .*: digest [0-9a-f]{64}, not [0-9a-f]{64}",
    ),
    "swapped files": (54, lambda: swapped() or load_data("npz:swapped.npz"), "x_train must be uint8, got int64"),
    "fewer labels": (54, lambda: fewer() or load_data("npz:fewer.npz"), "30 images, y_train has 29 labels"),
}
asked(REFUSED)


def swapped() -> None:
    arrays = np.load("halves.npz")
    np.savez(
        "swapped.npz",
        x_train=arrays["y_train"],
        y_train=arrays["x_train"],
        x_test=arrays["y_test"],
        y_test=arrays["x_test"],
    )


def fewer() -> None:
    arrays = dict(np.load("halves.npz"))
    np.savez("fewer.npz", **arrays | {"y_train": arrays["y_train"][:29]})


COMMANDS: Commands = {
    "a missing model": (41, ["evaluate", "none.safetensors", *OF_HALVES], "cannot read none.safetensors"),
    "weights that are missing": (
        41,
        ["evaluate", "python:toy_nets:linear", *OF_HALVES, "--weights", "w.pt"],
        "missing",
    ),
    "an out that is a file": (50, [*TRAIN, "--out", "halves.npz"], "--out: halves.npz cannot be written"),
    "a JSON that is a folder": (
        50,
        ["evaluate", "python:toy_nets:linear", *OF_HALVES, "--json", "."],
        "--json . is a folder",
    ),
    "a JSON in a file": (
        50,
        ["evaluate", "python:toy_nets:linear", *OF_HALVES, "--json", "halves.npz/x"],
        "--json: halves.npz",
    ),
    "a packed file that is there": (51, ["data", "pack", "npz:halves.npz", "--out", "toy_nets.py"], "must end in"),
    "a path that leads elsewhere": (55, ["evaluate", "zoo:../../x", *OF_HALVES], 'unknown zoo model "../../x"'),
    "a name of markup": (55, ["evaluate", "zoo:<script>", *OF_HALVES], 'unknown zoo model "<script>"'),
    "a name of 300 letters": (55, ["evaluate", "zoo:" + "x" * 300, *OF_HALVES], "unknown zoo model"),
    "no such root": (53, ["data", "fetch", "cifar10", "--data-root", "none"], "correct --data-root"),
}
asked(COMMANDS)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "cache"))
    _, use, words = REFUSED[name]
    refused(use, words)
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_refused_by_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, words, said = COMMANDS[name]
    refused_by_command(words, said, capsys)


@pytest.mark.parametrize(
    ("data", "option", "file"),
    [
        ("npz:halves.npz", "--save-examples", "halves.npz"),
        ("npz:~/halves.npz", "--save-examples", "halves.npz"),
        ("halves.safetensors", "--save-examples", "halves.safetensors"),
        ("npz:halves.npz", "--save-examples", "m.safetensors"),
        ("npz:halves.npz", "--json", "m.json"),
    ],
)
def test_what_an_evaluation_reads_is_not_written_over(
    data: str, option: str, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert main(["data", "pack", "npz:halves.npz", "--out", "halves.safetensors"]) == 0
    save_model(model(), "m.safetensors")
    capsys.readouterr()
    command = ["evaluate", "m.safetensors", "--data", data, "--threat", "linf", "--eps", "0.1", option, file]
    refused_by_command(command, f"{option} {file} would replace what is read", capsys)


@pytest.mark.parametrize("option", ["mean", "std", "range", "labels"])
def test_an_empty_option_is_not_taken_for_none(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused_by_command(
        ["evaluate", "zoo:mnist-standard", "--data", "mnist", *OF_HALVES[2:], f"--{option}", ""],
        "is not a",
        capsys,
    )


@line(47)
def test_models_of_this_format_stay_readable() -> None:
    for name in zoo_names():  # written once, read by every later version
        assert isinstance(load_model(f"zoo:{name}"), Classifier)
    save_model(model(), "m.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(model().parameters(), load_model("m.safetensors").parameters(), strict=True)
    )


@line(48)
def test_another_run_in_the_folder_is_refused_with_each_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    capsys.readouterr()
    other = [*TRAIN, "--threat", "linf", "--eps", "0.1", "--seed", "1", "--batch-size", "15"]
    refused_by_command(other, r"batch_size: saved 10, now 15; seed: saved 0, now 1; threat: .*another --out", capsys)
    arrays = dict(np.load("halves.npz"))
    np.savez("halves.npz", **arrays | {"x_train": arrays["x_train"][::-1]})
    refused_by_command(TRAIN, "data: saved .*, now", capsys)


@line(49)
@pytest.mark.parametrize("command", [TRAIN, ["evaluate", "python:toy_nets:linear", *OF_HALVES, "--out", "runs/train"]])
def test_a_folder_is_for_one_process(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with locked(Path("runs/train")):
        refused_by_command(command, "another process is writing to runs/train", capsys)
    assert main(command) == 0  # the lock of a process that is gone


@line(50)
def test_a_full_disk_destroys_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--epochs", "2"]) == 0
    sync, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 4:
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(workspace.os, "fsync", full)
        assert main([*TRAIN, "--epochs", "2", "--out", "full"]) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err.splitlines()[-1]
    assert "the last good state is that of step" in err.splitlines()[-1]
    assert main([*TRAIN, "--epochs", "2", "--out", "full"]) == 0
    first, second = (load_model(f"{name}/model.safetensors").state_dict() for name in ("runs/train", "full"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@line(51)
def test_what_is_replaced_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--save-examples", "a.npz", "--json", "a.json")
    run("linear", "--eps", "0.01", *options)
    assert "replac" not in capsys.readouterr().err
    run("linear", "--eps", "0.02", *options)
    err = capsys.readouterr().err
    for name in ("a.npz", "a.json"):
        assert f" {name}\n" in err
    for name in ("evaluation.json", "evaluation.html"):
        assert f"replaced runs/evaluate/{name}; the one before is runs/evaluate/previous/{name}\n" in err
        assert "0.01" in (Path("runs/evaluate/previous") / name).read_text()
    assert main(["data", "pack", "npz:halves.npz", "--out", "a.safetensors"]) == 0
    before = Path("a.safetensors").read_bytes()
    assert main(["data", "pack", "npz:halves.npz", "--out", "a.safetensors"]) == 2
    assert Path("a.safetensors").read_bytes() == before


@line(52)
def test_a_damaged_file_of_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = lzma.compress(bytes(1000))
    (tmp_path / "mnist.xz").write_bytes(content[:-9] + b"?" + content[-8:])
    monkeypatch.setattr(bundled, "files", lambda package: tmp_path)
    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "cache"))
    refused(lambda: load_data("mnist"), "mnist.xz in the package is damaged .*; install nofreelunch again")


@line(53)
def test_without_a_network_the_sentence_says_which_file_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("NOFREELUNCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NOFREELUNCH_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", unreachable)
    refused_by_command(["data", "fetch", "cifar10"], "put cifar10.npz, or .* into a folder .* --data-root", capsys)
    assert cifar10.place(None) is None


EVIL = "<script>alert('x')</script>"


@line(55)
def test_names_are_shown_as_text_and_lead_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    name = EVIL.replace("/", "") + "\u00fc"
    os.rename("halves.npz", f"{name}.npz")
    assert main(["evaluate", "python:toy_nets:linear", "--data", f"npz:{name}.npz", *OF_HALVES[2:]]) == 0
    page = Path("runs/evaluate/evaluation.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert {path.parts[0] for path in Path().rglob("*")} <= {"runs", f"{name}.npz", "toy_nets.py", "__pycache__"}


@line(56)
def test_a_page_needs_no_network_and_is_the_same_again() -> None:
    pages = []
    for folder in ("one", "two/deeper"):
        assert run("linear", "--eps", "0.02", "--out", folder) == 0
        pages.append(Path(folder, "evaluation.html").read_text())
    for page in pages:
        assert "<script src" not in page
        assert "stylesheet" not in page
        assert 'src="http' not in page
        assert 'href="http' not in page
    first, second = (json.loads(Path(folder, "evaluation.json").read_text()) for folder in ("one", "two/deeper"))
    assert [key for key in first if first[key] != second[key]] == ["seconds"]
