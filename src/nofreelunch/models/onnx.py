"""ONNX files: by onnx2torch as networks of PyTorch, else by onnxruntime as functions without a gradient."""

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nofreelunch.errors import InputError, needed, reason
from nofreelunch.files import read_bytes
from nofreelunch.models.sources import LoadedNetwork

_ELSEWHERE = b"\n\x08location"
"""How a tensor that lies in another file says where: the key "location" in protobuf's encoding."""


def from_onnx(name: str) -> LoadedNetwork:
    """The network in an ONNX file of one input and one output.

    Raises:
        InputError: if it cannot be read, keeps weights in other files, or takes batches of one size only.
    """
    path = Path(name)
    content = read_bytes(path)
    if _ELSEWHERE in content:
        raise InputError(f"{path} keeps weights in other files, which are not read; save it as one file")
    if find_spec("onnxruntime") is not None and find_spec("onnx2torch") is None:
        return LoadedNetwork(Session(content, path))
    return LoadedNetwork(_converted(content, path))


def _converted(content: bytes, path: Path) -> nn.Module:
    """The file as a network of PyTorch.

    onnx2torch makes it by generating Python in which the nodes' names stand, unescaped: a name can hold code, which
    runs when the network is called. So every node is given another name.
    """
    converter = needed("onnx2torch", f"{path}")
    try:
        model = needed("onnx", f"{path}").load_from_string(content)
        for number, node in enumerate(model.graph.node):
            node.name = f"node_{number}"
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        sizes = [value.type.tensor_type.shape.dim[0].dim_value for value in inputs]
        network: nn.Module = converter.convert(model)
    except InputError:
        raise
    except Exception as error:  # it fails in as many ways as there are files
        raise InputError(f"{path} cannot be converted: {reason(error)}") from None
    _check_input(path, len(inputs), sizes[0] if sizes else 0)
    return network


def _check_input(path: Path, inputs: int, batch: Any) -> None:
    if inputs != 1:
        raise InputError(f"{path} takes {inputs} inputs; a classifier takes one")
    if isinstance(batch, int) and batch > 0:
        raise InputError(f"{path} takes batches of {batch} only; export it with a dynamic batch axis")


class Session(nn.Module):
    """An ONNX model that onnxruntime runs, on the CPU: a function of which nothing is known but its values.

    Raises:
        InputError: if onnxruntime cannot run it.
    """

    digest: Tensor

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__()
        runtime = needed("onnxruntime", f"{path}")
        try:
            self._session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception as error:  # it fails in as many ways as there are files
            raise InputError(f"{path} cannot be run: {reason(error)}") from None
        inputs = self._session.get_inputs()
        _check_input(path, len(inputs), inputs[0].shape[0] if inputs else 0)
        self._input = inputs[0].name
        self.register_buffer("digest", torch.tensor(list(sha256(content).digest()), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """What the model answers first; it cannot be asked for a gradient."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("onnxruntime has no gradients; they need onnx2torch (pip install onnx2torch)")
        values = self._session.run(None, {self._input: x.detach().cpu().numpy()})
        return torch.from_numpy(values[0]).to(x.device)
