"""Architectures have the sizes that the paper gives, and files give back the model or say in one sentence why not."""

import io
import json
import os
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn
from torch.nn import functional as F

from nofreelunch.data import Dataset, Split
from nofreelunch.errors import InputError
from nofreelunch.models import ARCHITECTURES, Classifier, build, foreign, load_model, save_model, zoo_names
from nofreelunch.models.files import load_file
from nofreelunch.models.tensors import pair, read_tensors
from nofreelunch.training import train
from nofreelunch.workspace import digest, to_json
from training_toy import toy_config, toy_data


def data(shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3) -> Any:
    c = shape[0]
    train = SimpleNamespace(x=torch.zeros(1, *shape, dtype=torch.uint8))
    return SimpleNamespace(classes=tuple(map(str, range(classes))), mean=(0.25,) * c, std=(0.5,) * c, train=train)


def weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


# Architectures


def test_the_papers_networks_have_the_papers_sizes() -> None:
    mnist = build("mnist-cnn", data((1, 28, 28), 10))
    assert weights(mnist) == (25 + 1) * 32 + (25 * 32 + 1) * 64 + (7 * 7 * 64 + 1) * 1024 + 1025 * 10
    cifar = build("cifar-resnet", data((3, 32, 32), 10))
    convolutions = [layer for layer in cifar.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * 5 * 2
    assert [layer.out_channels for layer in convolutions] == [16] * 11 + [32] * 10 + [64] * 10
    pairs = [(3, 16)] + [(16, 16)] * 10 + [(16, 32)] + [(32, 32)] * 9 + [(32, 64)] + [(64, 64)] * 9
    norms = 2 * sum(layer.num_features for layer in cifar.modules() if isinstance(layer, nn.BatchNorm2d))
    assert weights(cifar) == sum(9 * a * b for a, b in pairs) + norms + 65 * 10


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_gives_finite_logits_and_is_a_function_of_its_seed(arch: str) -> None:
    shape = (3, 12, 16)
    random_state = torch.get_rng_state()
    models = [build(arch, data(shape, 2), seed).eval() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), random_state)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    first, same, other = (model(x) for model in models)
    assert first.shape == (2, 2)
    assert first.isfinite().all()
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_linear_is_the_affine_function_of_normalised_pixels() -> None:
    model = build("linear", data((2, 3, 4)))
    x = torch.rand(5, 2, 3, 4)
    layer: Any = model.network[1]  # type: ignore[index]
    torch.testing.assert_close(model(x), ((x - 0.25) / 0.5).reshape(5, 24) @ layer.weight.T + layer.bias)


def test_cifar_resnet_is_its_definition() -> None:
    """The network of Madry et al. written as one function of the weights (an independent second reading)."""
    model = build("cifar-resnet", data((3, 16, 16), 10)).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.rand(layer.num_features) - 0.5
            layer.running_var = torch.rand(layer.num_features) + 0.5
    state = {name.removeprefix("network.1."): value for name, value in model.state_dict().items()}

    def active(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = (state[f"{name}.running_{what}"].view(-1, 1, 1) for what in ("mean", "var"))
        z = (x - mean) / torch.sqrt(var + 1e-5) * state[f"{name}.weight"].view(-1, 1, 1) + state[f"{name}.bias"].view(
            -1, 1, 1
        )
        return torch.where(z > 0, z, 0.1 * z)

    x = 0.5 * torch.rand(2, 3, 16, 16)
    mean, std = x.flatten(1).mean(1), x.flatten(1).std(1, correction=0)
    z = F.conv2d((x - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1), state["stem.weight"], padding=1)
    for unit in range(15):
        a = active(z, f"units.{unit}.bn1")
        stride = 2 if unit in (5, 10) else 1
        b = F.conv2d(a, state[f"units.{unit}.conv1.weight"], padding=1, stride=stride)
        b = F.conv2d(active(b, f"units.{unit}.bn2"), state[f"units.{unit}.conv2.weight"], padding=1)
        short = a if unit == 0 else z
        if stride == 2:
            short = sum(short[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4  # type: ignore[assignment]
            zeros = torch.zeros(2, short.shape[1] // 2, *short.shape[2:])
            short = torch.cat([zeros, short, zeros], 1)
        z = b + short
    logits = active(z, "bn").mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["cifar-resnet", "preact-resnet18"])
@pytest.mark.parametrize("side", [15, 30, 33])
def test_residual_networks_take_sides_that_halve_badly(arch: str, side: int) -> None:
    images = Split(torch.zeros(4, 3, side, side, dtype=torch.uint8), torch.arange(4), (0, 1, 2, 3))
    model = build(arch, Dataset("odd", ("a", "b", "c", "d"), (0.5,) * 3, (0.5,) * 3, images, images)).eval()
    assert model(torch.rand(2, 3, side, side)).shape == (2, 4)


def test_standardisation_forgets_brightness_and_contrast_but_does_not_blow_up_flat_images() -> None:
    standardise: Any = build("cifar-resnet", data((3, 8, 8))).network[0]  # type: ignore[index]
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(standardise(0.3 * x + 0.4), standardise(x), rtol=1e-4, atol=1e-5)
    flat = torch.full((1, 3, 8, 8), 0.7).requires_grad_()
    assert standardise(flat).abs().max() < 1e-4
    assert torch.autograd.grad(standardise(flat).square().sum(), flat)[0].isfinite().all()
    slight = torch.full((1, 3, 8, 8), 0.5) + 1e-3 * (torch.rand(1, 3, 8, 8) - 0.5)
    torch.testing.assert_close(standardise(slight), (slight - slight.mean()) * (3 * 8 * 8) ** 0.5, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("mnist-cn", data()), 'unknown architecture "mnist-cn"; did you mean "mnist-cnn"\\?'),
        (lambda: build("mnist-cnn", data((1, 3, 8))), r"at least 4 pixels a side, got \(1, 3, 8\)"),
        (lambda: build("resnet50", data((1, 32, 32))), "3 channels, got 1"),
        (lambda: build("linear", data(classes=1)), "classes must be .* at least 2, got 1"),
        (lambda: build("linear", data())(torch.rand(2, 1, 28, 28)), r"\(n, 1, 8, 8\), got \(n, 1, 28, 28\)"),
        (lambda: build("linear", data())(torch.rand(2, 64)), r"\(n, 1, 8, 8\), got \(2, 64\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# Our own files


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Classifier, Path]:
    model = build("mnist-cnn-small", data(), seed=4)
    recipe = {"epochs": 3, "threat": None, "steps": [1, 2.5]}
    model.card = replace(model.card, data="münze", threat="Linf(eps=0.3)", recipe=recipe, metrics={"clean": 0.875})
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    return model, path


def rewrite(path: Path, **changes: Any) -> None:
    """The JSON beside `path` with other values, honestly signed."""
    about = json.loads(path.with_suffix(".json").read_bytes()) | changes
    about = {key: value for key, value in about.items() if key != "sha256"}
    path.with_suffix(".json").write_bytes(to_json({**about, "sha256": digest(to_json(about))}))


@pytest.mark.parametrize("arch", ["linear", "cifar-resnet", "preact-resnet18"])
def test_what_is_saved_comes_back_bit_for_bit(arch: str, tmp_path: Path) -> None:
    model = build(arch, data((3, 8, 8))).train()
    model(torch.rand(4, 3, 8, 8))  # moves the statistics of the batch-norms
    save_model(model, tmp_path / "m.safetensors")
    random_state = torch.get_rng_state()
    again = load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert isinstance(again, Classifier)
    assert again.card == model.card
    assert not again.training
    assert all(weight.requires_grad and not weight.is_meta for weight in again.parameters())
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


class Tied(nn.Module):
    """Two layers share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight, self.last = self.first.weight, nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x.flatten(1)).relu()).relu())


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    content, _ = pair(Tied().state_dict(), {}, "digest")
    kept = read_tensors(content, tmp_path)
    assert torch.equal(kept["first.weight"], kept["second.weight"])
    Tied().load_state_dict(kept)


def test_the_card_says_what_the_model_is(saved: tuple[Classifier, Path]) -> None:
    model, path = saved
    about = json.loads(path.with_suffix(".json").read_bytes())
    assert about["architecture"] == "mnist-cnn-small"
    assert about["normalisation"] == {"mean": [0.25], "std": [0.5]}
    assert about["weights_sha256"] == digest(path.read_bytes())
    assert (about["format"], about["data"], about["threat"], about["seed"]) == (1, "münze", "Linf(eps=0.3)", 4)
    again: Any = load_model(str(path))
    assert again.card == model.card
    assert sorted(os.listdir(path.parent)) == ["model.json", "model.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_float32(saved: tuple[Classifier, Path], tmp_path: Path) -> None:
    model, path = saved
    save_model(model, tmp_path / "half.safetensors", half=True)
    again = load_model(tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * path.stat().st_size
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(theirs, mine.half().float())
    with torch.no_grad():
        next(model.parameters())[0] = 1e6
    with pytest.raises(InputError, match=r"conv1\.weight has values too large for half precision"):
        save_model(model, tmp_path / "half.safetensors", half=True)


def test_format_1_is_read_forever(tmp_path: Path) -> None:
    """A file written by hand as the format's description says; later versions must load it."""
    header = {
        "pixels.mean": {"dtype": "F32", "shape": [1, 1, 1], "data_offsets": [0, 4]},
        "pixels.std": {"dtype": "F32", "shape": [1, 1, 1], "data_offsets": [4, 8]},
        "network.1.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]},
        "network.1.bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + struct.pack("<8f", 0.5, 0.25, 1, 2, 3, 4, 10, 20)
    (tmp_path / "old.safetensors").write_bytes(content)
    about = {
        "format": 1, "architecture": "linear", "shape": [1, 1, 2], "classes": 2,
        "normalisation": {"mean": [0.5], "std": [0.25]}, "data": "", "threat": "", "recipe": {}, "seed": 0,
        "metrics": {}, "weights_sha256": digest(content),
    }  # fmt: skip
    (tmp_path / "old.json").write_bytes(to_json({**about, "sha256": digest(to_json(about))}))
    logits = load_model(tmp_path / "old.safetensors")(torch.tensor([[[[0.75, 0.25]]]]))
    assert logits.tolist() == [[1 - 2 + 10, 3 - 4 + 20]]


@settings(max_examples=150, deadline=None)
@given(which=st.sampled_from([".safetensors", ".json"]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(files_of_a_model: dict[str, bytes], which: str, place: float, bit: int) -> None:
    folder = Path(files_of_a_model["folder"].decode())
    for suffix in (".safetensors", ".json"):
        content = bytearray(files_of_a_model[suffix])
        if suffix == which:
            content[int(place * len(content))] ^= 1 << bit
        (folder / f"m{suffix}").write_bytes(content)
    with pytest.raises(InputError):
        load_model(folder / "m.safetensors")


@settings(max_examples=50, deadline=None)
@given(which=st.sampled_from([".safetensors", ".json"]), share=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_found(files_of_a_model: dict[str, bytes], which: str, share: float) -> None:
    folder = Path(files_of_a_model["folder"].decode())
    for suffix in (".safetensors", ".json"):
        content = files_of_a_model[suffix]
        (folder / f"m{suffix}").write_bytes(content[: int(share * len(content))] if suffix == which else content)
    with pytest.raises(InputError, match=r"truncated|not a safetensors|digest|not describe"):
        load_model(folder / "m.safetensors")


@pytest.fixture(scope="module")
def files_of_a_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    save_model(build("linear", data((1, 4, 4))), folder / "m.safetensors")
    files = {suffix: (folder / f"m{suffix}").read_bytes() for suffix in (".safetensors", ".json")}
    return {**files, "folder": str(folder).encode()}


@pytest.mark.parametrize("edit", [lambda text: text.replace(b"0.875", b"0.975"), lambda text: text.replace(b" ", b"")])
def test_an_edited_card_is_found(saved: tuple[Classifier, Path], edit: Any) -> None:
    card = saved[1].with_suffix(".json")
    card.write_bytes(edit(card.read_bytes()))
    with pytest.raises(InputError, match="changed after it was written: digest mismatch"):
        load_model(saved[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this version reads up to 1"),
        ({"format": "1"}, "does not describe a model"),
        ({"architecture": "mnist-cnn"}, "does not fit the model|truncated"),
        ({"architecture": "vgg"}, 'unknown architecture "vgg"'),
        ({"classes": 4}, r"network.fc2.bias has shape \(3,\) and not \(4,\)"),
        ({"classes": "3"}, "classes is missing or of the wrong type"),
        ({"classes": 10**12}, "it cannot have 1000000000000 classes"),
        ({"classes": 1000000, "shape": [1, 16000, 16000], "architecture": "linear"}, "does not fit the model"),
        ({"shape": [1, 8]}, "no image has shape"),
        ({"shape": [1, 8, "a"]}, "no image has shape"),
        ({"normalisation": {"mean": [0.5]}}, "must hold lists mean and std"),
        ({"normalisation": {"mean": [0.5], "std": [0.0]}}, "std above 0"),
        ({"normalisation": {"mean": ["a"], "std": [1.0]}}, "must hold lists mean and std"),
        ({"weights_sha256": "0" * 64}, "digest mismatch"),
        ({"recipe": 3}, "wrong type"),
    ],
)
def test_a_card_that_lies_is_refused(saved: tuple[Classifier, Path], changes: dict[str, Any], message: str) -> None:
    rewrite(saved[1], **changes)
    with pytest.raises(InputError, match=message):
        load_model(saved[1])


def forge(path: Path, change: Any) -> None:
    """Rewrite the header of the tensors' file, and sign the result."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    rewrite(path, weights_sha256=digest(path.read_bytes()))


def _set(name: str, **values: Any) -> Any:
    return lambda header: header[name].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("network.fc1.bias", shape=[10**9]), "is not a safetensors file, or it is truncated or corrupt"),
        (_set("network.fc1.bias", shape=[64, 2]), r"network.fc1.bias has shape \(64, 2\) and not \(128,\)"),
        (_set("network.fc1.bias", dtype="I32"), "network.fc1.bias has type torch.int32 and not torch.float32"),
        (_set("network.fc1.bias", dtype="F8"), "is not a safetensors file, or it is truncated or corrupt"),
        (_set("network.fc1.bias", data_offsets=[0, 512]), "is not a safetensors file, or it is truncated or corrupt"),
        (lambda header: header.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "extra is not in"),
        (lambda header: header.update(__metadata__={"a": "b"}), None),
        (
            lambda header: header.update({"x": header.pop("network.fc1.bias")}),
            "network.fc1.bias is missing; x is not in",
        ),
    ],
)
def test_a_header_that_lies_is_refused(saved: tuple[Classifier, Path], change: Any, message: str | None) -> None:
    forge(saved[1], change)
    if message is None:
        load_model(saved[1])
    else:
        with pytest.raises(InputError, match=message):
            load_model(saved[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a safetensors"), (b"hello", "not a safetensors"), (b"\xff" * 100, "not a safetensors"),
     (b"\x10" + b"\0" * 30, "not a safetensors"), (b"\0" * 10**6, "has 1000000 bytes, more than the model")],
)  # fmt: skip
def test_what_is_no_tensors_file_is_refused(saved: tuple[Classifier, Path], content: bytes, message: str) -> None:
    saved[1].write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_model(saved[1])


def test_missing_files_folders_and_other_endings_are_named(saved: tuple[Classifier, Path]) -> None:
    model, path = saved
    with pytest.raises(InputError, match=r"is a folder; give the file in it, .*model\.safetensors"):
        load_model(path.parent)
    with pytest.raises(InputError, match=r"cannot read .*none\.safetensors: No such file"):
        load_model(path.parent / "none.safetensors")
    with pytest.raises(InputError, match="a foreign checkpoint goes to --weights"):
        load_model("net.pt")
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors: No such file"):
        load_model(path)
    with pytest.raises(InputError, match=r"must end in \.safetensors, got .*net\.pt"):
        save_model(model, path.parent / "net.pt")
    with pytest.raises(InputError, match="only a Classifier can be saved, got Linear"):
        save_model(nn.Linear(2, 2), path)  # type: ignore[arg-type]


# Specs


def test_zoo_names_load_and_unknown_ones_are_named() -> None:
    for name in zoo_names():
        assert isinstance(load_model(f"zoo:{name}"), Classifier)
    with pytest.raises(InputError, match='unknown zoo model "no-such-model"'):
        load_model("zoo:no-such-model")
    with pytest.raises(InputError, match="--weights goes with torchvision:NAME, timm:NAME or python:"):
        load_model("zoo:mnist", weights="w.pt")


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "Net = nn.Linear\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 3))\n"
        "def tell(): return nn.Linear\n"
        "def fail(): raise KeyError('oops')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    return "python:my_nets"


def test_users_factories_are_found_in_the_present_folder(user_module: str) -> None:
    before = list(sys.path)
    model = load_model(f"{user_module}:make")
    assert not model.training
    assert model(torch.rand(2, 1, 2, 2)).shape == (2, 3)
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:my_nets:mak", 'unknown factory in my_nets "mak"; did you mean "make"?'),
        ("python:my_nets:tell", "must return an nn.Module, got type, a class and not an instance"),
        ("python:my_nets:fail", "failed: KeyError: 'oops'"),
        ("python:my_nets:Net", "failed: TypeError"),
        ("python:my_nots:make", "failed: ModuleNotFoundError: No module named 'my_nots'; it is looked for in "),
        (
            "python:./my_nets.py:make",
            "python: takes a module, not a file, got ./my_nets.py; give python:my_nets:make",
        ),
        ("python:my_nets", "write python:package.module:factory, got python:my_nets"),
        ("torchvision:resnet5", 'unknown torchvision model "resnet5"; did you mean "resnet'),
    ],
)
def test_specs_that_name_nothing_are_answered(user_module: str, spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert message in str(caught.value)


# Foreign weights


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {"2.weight": torch.randn(3, 4, generator=rng), "2.bias": torch.randn(3, generator=rng)}


@pytest.mark.parametrize("wrap", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_foreign_weights_load_whatever_wrapped_them(
    user_module: str, state: dict[str, torch.Tensor], wrap: str, key: str | None
) -> None:
    wrapped: Any = {wrap + name: value.double() for name, value in state.items()}
    torch.save({key: wrapped, "epoch": 3} if key else wrapped, "w.pt")
    save_file(wrapped, "w.safetensors")
    x = torch.rand(2, 4)
    for file in ("w.pt", "w.safetensors"):
        logits = load_model(f"{user_module}:make", weights=file)(x)
        torch.testing.assert_close(logits, x @ state["2.weight"].T + state["2.bias"])


def test_torchvisions_networks_take_pixels(tmp_path: Path) -> None:
    from torchvision.models import get_model

    network = get_model("squeezenet1_1", weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = load_model("torchvision:squeezenet1_1", weights=tmp_path / "w.pth")
    x = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(model(x), network((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)))


class Executes:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "eval"), (exec, "exec"), (torch.hub.load, "torch.hub.load")],
)
def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(
    user_module: str, state: dict[str, torch.Tensor], function: Any, name: str
) -> None:
    argument = "open('ran', 'w')" if function in (eval, exec) else "touch ran"
    torch.save({**state, "x": Executes(function, argument)}, "w.pt")
    with pytest.raises(InputError) as caught:
        load_model(f"{user_module}:make", weights="w.pt")
    assert name in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not Path("ran").exists()


def _zip(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", "is not a file that torch.save wrote"),
        (lambda: b"text", "is not a file that torch.save wrote"),
        (lambda: _saved({"a": torch.rand(3)})[:-200], "is not a file that torch.save wrote"),
        (lambda: _saved({"a": torch.rand(3)}, _use_new_zipfile_serialization=False)[:-2], "it is corrupt"),
        (lambda: _zip([("a.txt", b"text")]), "holds no state dict"),
        (lambda: _zip([("a/data.pkl", bytes(10**6))], zipfile.ZIP_DEFLATED), "not one that torch.save wrote"),
        (lambda: _zip([("a/data.pkl", b"."), ("b/data.pkl", b".")]), "holds no state dict"),
        (lambda: _zip([("a/data.pkl", b"garbage"), ("a/version", b"3")]), "was refused and nothing of it was executed"),
        (lambda: _zip([("a/data.pkl", b"."), ("a/code/net.py", b"")]), "nothing of it was run: TorchScript can"),
        (lambda: _saved(torch.rand(3)), "holds a Tensor; a state dict is wanted"),
        (lambda: _saved({}), "holds no state dict"),
        (lambda: _saved({"epoch": 3}), "it has ['epoch']; wanted are named tensors"),
        (lambda: _saved({"2.weight": torch.rand(3, 4)}), "does not fit the model: 2.bias is missing"),
        (lambda: _saved({"2.weight": torch.rand(1).expand(10**6, 10**3), "2.bias": torch.rand(3)}), "not (3, 4)"),
        (
            lambda: _saved({"2.weight": torch.ones(3, 4).long(), "2.bias": torch.rand(3)}),
            "has type torch.int64 and not torch.float32",
        ),
    ],
)
def test_bad_checkpoints_are_refused(user_module: str, content: Any, message: str) -> None:
    Path("w.pt").write_bytes(content())
    with pytest.raises(InputError) as caught:
        load_model(f"{user_module}:make", weights="w.pt")
    assert message in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_truncated_safetensors_are_refused(user_module: str, state: dict[str, torch.Tensor]) -> None:
    for cut in (save(state)[:-3], save(state)[:20], b""):
        Path("w.safetensors").write_bytes(cut)
        with pytest.raises(InputError, match=r"w\.safetensors is not a safetensors file, or it is truncated"):
            load_model(f"{user_module}:make", weights="w.safetensors")


def test_missing_weights_and_old_versions_of_torch_are_named(
    user_module: str, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"--weights none\.pt is missing"):
        load_model(f"{user_module}:make", weights="none.pt")
    torch.save(state, "w.pt")
    monkeypatch.setattr(foreign.torch, "__version__", "2.9.1+cpu")
    with pytest.raises(InputError, match=r"torch 2\.9\.1.* install torch >= 2\.10"):
        load_model(f"{user_module}:make", weights="w.pt")


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network in a file of the user's, which keeps its layers under a name that wrappers use too."""
    code = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2))

    def forward(self, x):
        return self.model(x - 0.5)

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 2))

def many():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
"""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text(code)
    return f"python:{name}"


def test_a_network_of_the_users_is_trained_and_comes_back(own_network: str) -> None:
    arch = f"{own_network}:Net"
    config = toy_config(arch=arch, epochs=1.0)
    model = train(toy_data(), config, out="run")
    again = load_model(arch, weights="run/model.safetensors")
    x = toy_data().test.images()
    assert torch.equal(again(x), model(x))
    assert torch.equal(train(toy_data(), config)(x), model(x))
    with pytest.raises(InputError, match=r"no file makes code run: give python:own_.*:Net with --weights run"):
        load_model("run/model.safetensors")
    with pytest.raises(InputError, match="no file makes code run"):
        load_file(Path("run/model.safetensors"), own_code=f"{own_network}:other")
    assert torch.equal(load_file(Path("run/model.safetensors"), own_code=arch)(x), model(x))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("narrow", "does not take images of"),
        ("many", r"logits of shape \(2, 2\), got shape \(2, 5\)"),
        ("x", "unknown fac"),
    ],
)
def test_a_network_of_the_users_must_fit_the_data(own_network: str, factory: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        train(toy_data(), toy_config(arch=f"{own_network}:{factory}"))


def test_weights_are_found_under_the_names_that_the_network_has(own_network: str) -> None:
    """A prefix that all names share is taken off, unless the network has it too."""
    net = load_model(f"{own_network}:Net")
    for prefix in ("", "module."):
        save_file({prefix + name: value for name, value in net.state_dict().items()}, "w.safetensors")
        again = load_model(f"{own_network}:Net", weights="w.safetensors")
        assert all(torch.equal(one, other) for one, other in zip(net.parameters(), again.parameters(), strict=True))
