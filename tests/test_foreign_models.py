"""Models that others made: their pixels and outputs, other libraries' networks and files, and what is refused."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nofreelunch.errors import InputError
from nofreelunch.models import load_model, specs
from nofreelunch.models.declared import Declared

FACTORY = "python:some_nets:make"
MEAN = (120.0, 110.0, 100.0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "some_nets", raising=False)


def network() -> nn.Module:
    return load_model(FACTORY)


def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# What is declared


@pytest.mark.parametrize(
    ("declared", "seen"),
    [
        (Declared(), lambda x: x),
        (Declared((0.5,), (0.25,)), lambda x: (x - 0.5) / 0.25),
        (Declared(mean=(0.0,) * 3, std=(0.5, 1.0, 2.0)), lambda x: x / torch.tensor([0.5, 1, 2]).view(3, 1, 1)),
        (Declared(pixel_range=(0, 255)), lambda x: 255 * x),
        (Declared(pixel_range=(-1, 1)), lambda x: 2 * x - 1),
        (Declared(MEAN, (60.0,) * 3, (0, 255)), lambda x: (255 * x - torch.tensor(MEAN).view(3, 1, 1)) / 60),
    ],
)
def test_pixels_are_as_declared(declared: Declared, seen: Any) -> None:
    same(load_model(FACTORY, declared=declared)(images()), network()(seen(images())))


def test_outputs_are_as_declared() -> None:
    model = load_model(FACTORY, declared=Declared(labels=(4, 0)))
    assert torch.equal(model(images()), network()(images())[:, [4, 0]])
    with pytest.raises(InputError, match="labels name output 5, but the model has 5 outputs"):
        load_model(FACTORY, declared=Declared(labels=(4, 5)))(images())


def test_our_models_need_no_declaration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="normalises pixels itself"):
        load_model("zoo:any", declared=Declared((0.5,), (0.5,)))


# Checkpoints of other libraries


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_layout_of_robustness(suffix: str) -> None:
    """Its wrapper keeps the network twice, beside mean and std, and DataParallel adds a prefix."""
    state = network().state_dict()
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    wrapped = {
        f"module.{place}.{name}": value for place in ("model", "attacker.model") for name, value in state.items()
    }
    for place in ("normalizer", "attacker.normalize"):
        wrapped |= {f"module.{place}.new_mean": mean, f"module.{place}.new_std": std}
    if suffix == ".pt":
        torch.save({"model": wrapped, "epoch": 7, "optimizer": {"state": {}}}, "w.pt")
    else:
        save_file({name: value.clone() for name, value in wrapped.items()}, "w.safetensors")
    same(load_model(FACTORY, weights=f"w{suffix}")(images()), network()((images() - mean) / std))
    plain = load_model(FACTORY, weights=f"w{suffix}", declared=Declared(pixel_range=(-1, 1)))
    same(plain(images()), network()(2 * images() - 1))


def test_of_two_networks_in_one_file_none_is_taken_for_the_other() -> None:
    state = network().state_dict()
    torch.save({f"{which}.{name}": state[name] for which in ("student", "teacher") for name in state}, "w.pt")
    with pytest.raises(InputError, match=r"does not fit the model: 0\.bias is missing"):
        load_model(FACTORY, weights="w.pt")


@pytest.mark.parametrize("prefix", ["backbone.", "_orig_mod.", "net."])
def test_what_wraps_a_network_is_taken_off(prefix: str) -> None:
    state = {prefix + name: value + 1 for name, value in network().state_dict().items()}
    torch.save({"model_state": state, "epoch": 3}, "w.pt")
    bias = load_model(FACTORY, weights="w.pt").state_dict()["3.bias"]
    assert torch.equal(bias, network().state_dict()["3.bias"] + 1)
    torch.save({"params": state}, "w.pt")
    with pytest.raises(InputError, match=r"it has \['params'\]; wanted are named tensors, alone or under one of state"):
        load_model(FACTORY, weights="w.pt")


def test_a_normaliser_that_is_none_is_refused() -> None:
    state = {f"model.{name}": value for name, value in network().state_dict().items()}
    torch.save({**state, "normalizer.new_mean": torch.zeros(3), "normalizer.new_std": torch.zeros(3)}, "w.pt")
    with pytest.raises(InputError, match=r"w\.pt: its normalizer is none: std must be in"):
        load_model(FACTORY, weights="w.pt")


@pytest.mark.parametrize("length", [10**4, 10**9])
def test_few_bytes_that_claim_a_huge_tensor_cost_no_memory(length: int) -> None:
    from torchvision.models import get_model

    state = get_model("squeezenet1_1", weights=None).state_dict()
    huge = torch.zeros(1).expand(length)
    torch.save({**state, "classifier.1.bias": huge}, "w.pt")
    with pytest.raises(InputError, match=r"w\.pt does not fit the model: classifier\.1\."):
        load_model("torchvision:squeezenet1_1", weights="w.pt")
    torch.save({**state, "normalizer.new_mean": huge, "normalizer.new_std": huge}, "w.pt")
    with pytest.raises(InputError, match="its normalizer is none: no image has so many channels"):
        load_model("torchvision:squeezenet1_1", weights="w.pt")


def test_a_header_that_claims_ten_gigabytes_costs_no_memory() -> None:
    entry = {"dtype": "F32", "shape": [50000, 50000], "data_offsets": [0, 10**10]}
    header = json.dumps({"3.weight": entry}).encode()
    Path("w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(InputError, match="is not a safetensors file, or it is truncated or corrupt"):
        load_model(FACTORY, weights="w.safetensors")
    Path("w.safetensors").write_bytes((10**10).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_model(FACTORY, weights="w.safetensors")


def test_the_layout_of_robustbench() -> None:
    state = {f"module.{name}": value + 1 for name, value in network().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, "w.pt")
    model = load_model(FACTORY, weights="w.pt")
    assert torch.equal(model.state_dict()["3.bias"], network().state_dict()["3.bias"] + 1)


def test_a_file_from_before_torch_1_6() -> None:
    torch.save(network().state_dict(), "w.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_model(FACTORY, weights="w.pt").state_dict()["3.bias"], network().state_dict()["3.bias"])


def test_torchvision_with_another_number_of_classes() -> None:
    from torchvision.models import get_model

    small = get_model("squeezenet1_1", weights=None, num_classes=7).eval()
    torch.save(small.state_dict(), "w.pt")
    assert load_model("torchvision:squeezenet1_1", weights="w.pt")(torch.rand(1, 3, 64, 64)).shape == (1, 7)


# Programs are not run


def _archive(*names: str) -> None:
    with zipfile.ZipFile("net.pt", "w") as archive:
        for name in names:
            archive.writestr(f"net/{name}", b"{}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("data.pkl", "code/__torch__.py"), "TorchScript can read and write files"),
        (("models/model.json", "archive_format"), "torch evaluates and unpickles parts of exported programs"),
        (("serialized_exported_program.json", "version"), "torch evaluates and unpickles parts of exported programs"),
    ],
)
def test_programs_are_refused_with_the_way_out(names: tuple[str, ...], message: str) -> None:
    _archive(*names)
    for given in (("net.pt",), (FACTORY, "net.pt")):
        with pytest.raises(InputError, match=f"nothing of it was run: {message}.*ONNX.*python:MODULE:FACTORY"):
            load_model(*given)


@pytest.mark.filterwarnings("ignore")
def test_what_torch_writes_is_recognised() -> None:
    program = torch.export.export(network(), (images(),))
    torch.export.save(program, "net.pt2")
    with pytest.raises(InputError, match="holds a program"):
        load_model("net.pt2")
    torch.save(network().state_dict(), "net.pt")
    with pytest.raises(InputError, match="goes to --weights beside torchvision:NAME, timm:NAME or python:"):
        load_model("net.pt")


# Other libraries


@pytest.mark.parametrize(
    ("spec", "package"), [("timm:resnet18", "timm"), ("hf:folder", "transformers"), ("net.onnx", "onnx2torch")]
)
def test_what_is_not_installed_is_named(spec: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("nofreelunch.models.onnx.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"{spec} needs the package {package}; install it with: pip install {package}"):
        load_model(spec)


def test_weights_go_with_networks_only() -> None:
    for kind in specs.WHOLE:
        with pytest.raises(InputError, match="--weights goes with torchvision:NAME, timm:NAME or python:"):
            load_model(f"{kind}:x", weights="w.pt")


def test_an_index_that_leads_outside_is_not_followed() -> None:
    pytest.importorskip("transformers")
    Path("net").mkdir()
    for content in ({"weight_map": {"a": "../outside.safetensors"}}, {"weight_map": {"a": "/etc/passwd"}}):
        Path("net/model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"leads out of the folder, to .*; it was not followed"):
            load_model("hf:net")


@pytest.mark.filterwarnings("ignore")
def test_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5}
    torch.manual_seed(0)
    net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).eval()
    net.save_pretrained("net")
    same(load_model("hf:net")(images()), net(images()).logits)
    about = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
    Path("net/preprocessor_config.json").write_text(json.dumps(about))
    same(load_model("hf:net")(images()), net((images() - 0.5) / 0.25).logits)
    Path("net/preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "do_rescale": False}))
    same(load_model("hf:net")(images()), net(255 * images()).logits)
    config = json.loads(Path("net/config.json").read_text())
    remote = {
        **config,
        "model_type": "mine",
        "auto_map": {"AutoConfig": "code.C", "AutoModelForImageClassification": "code.M"},
    }
    Path("net/config.json").write_text(json.dumps(remote))
    Path("net/code.py").write_text("open('ran', 'w')\n")
    with pytest.raises(InputError, match="no code of its own was run"):
        load_model("hf:net")
    assert not Path("ran").exists()
    Path("net/config.json").write_text(json.dumps(config))
    whole = Path("net/model.safetensors").read_bytes()
    Path("net/model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(InputError, match="was refused"):
        load_model("hf:net")
    save_file({"resnet.embedder.x": torch.rand(2)}, "net/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="has no weights for"):
        load_model("hf:net")
    Path("net/model.safetensors").unlink()
    torch.save(net.state_dict(), "net/pytorch_model.bin")
    with pytest.raises(InputError, match=r"no file named model\.safetensors"):
        load_model("hf:net")


@pytest.mark.filterwarnings("ignore")
def test_timm() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", num_classes=5).eval()
    torch.save(net.state_dict(), "w.pt")
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    same(load_model("timm:resnet10t", weights="w.pt")(x), net((x - mean) / std))
    with pytest.raises(InputError, match=r'unknown timm model "resnet10x"; near it are: .*resnet10t'):
        load_model("timm:resnet10x")


@pytest.fixture
def onnx_file() -> bytes:
    """The network, written without torch's exporter, which needs further packages."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    state = {name: value.numpy() for name, value in network().state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], name="first", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "3.weight", "3.bias"], ["y"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net",
        [value("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])], [value("y", onnx.TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(array, name) for name, array in state.items()],
    )  # fmt: skip
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return made


@pytest.mark.filterwarnings("ignore")
def test_onnx_by_onnx2torch(onnx_file: bytes) -> None:
    pytest.importorskip("onnx2torch")
    Path("net.onnx").write_bytes(onnx_file)
    for spec in ("net.onnx", "onnx:net.onnx"):
        same(load_model(spec)(images()), network()(images()))
    model = load_model("net.onnx", declared=Declared((0.5,), (0.25,)))
    same(model(images()), network()((images() - 0.5) / 0.25))
    x = images().requires_grad_()
    (grad,) = torch.autograd.grad(model(x).sum(), x)
    assert grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore")
def test_code_in_the_name_of_an_onnx_node_does_not_run(onnx_file: bytes) -> None:
    """onnx2torch writes names into Python unescaped: with this one it creates the file when the network is called."""
    pytest.importorskip("onnx2torch")
    import onnx  # type: ignore[import-not-found]

    model = onnx.load_from_string(onnx_file)
    model.graph.node[0].name = 'training"), getattr(__import__("os"),"system")("touch ran"), getattr(self, "training'
    Path("net.onnx").write_bytes(model.SerializeToString())
    same(load_model("net.onnx")(images()), network()(images()))
    assert not Path("ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_onnx_by_onnxruntime(onnx_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("nofreelunch.models.onnx.find_spec", lambda name: None if name == "onnx2torch" else name)
    Path("net.onnx").write_bytes(onnx_file)
    model = load_model("net.onnx")
    with torch.no_grad():
        same(model(images()), network()(images()))
    with pytest.raises(RuntimeError, match="pip install onnx2torch"):
        model(images().requires_grad_())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("through", ["onnx2torch", "onnxruntime"])
def test_bad_onnx_files_are_refused(onnx_file: bytes, through: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(through)
    monkeypatch.setattr("nofreelunch.models.onnx.find_spec", lambda name: name if name == through else None)
    import onnx

    model = onnx.load_from_string(onnx_file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    fixed = model.SerializeToString()
    model = onnx.load_from_string(onnx_file)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../etc/passwd")
    model.graph.initializer[0].ClearField("raw_data")
    cases = {
        b"": "cannot be", b"garbage" * 9: "cannot be", onnx_file[: len(onnx_file) // 2]: "cannot be",
        fixed: "takes batches of 3 only; export it with a dynamic batch axis",
        model.SerializeToString(): "keeps weights in other files, which are not read",
    }  # fmt: skip
    for content, message in cases.items():
        Path("net.onnx").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_model("net.onnx")
