"""What training starts from: random weights, or those of a network that was trained for something else."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nofreelunch.data import Dataset
from nofreelunch.errors import InputError
from nofreelunch.models import Classifier, build, load_model
from nofreelunch.models.classifier import Pixels
from nofreelunch.models.files import load_file
from nofreelunch.models.registry import own_network
from nofreelunch.models.sources import code_fingerprint
from nofreelunch.models.tensors import check_fits
from nofreelunch.names import PACKED, is_own_code
from nofreelunch.training.config import TrainConfig
from nofreelunch.types import Images, Logits
from nofreelunch.workspace import digest, file_digest


def start_digest(start: str) -> str:
    """SHA-256 of the model file that a training starts from; "" where it is a model of a name, or there is none.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        return file_digest(Path(start)) if start.endswith(PACKED) else ""
    except OSError as error:
        raise InputError(f"start: cannot read {start}: {error.strerror or error}") from None


def code_digest(arch: str) -> str:
    """SHA-256 of the code of a network of the user's; "" for those of the package.

    Raises:
        InputError: if the code fails.
    """
    if not is_own_code(arch):
        return ""
    with torch.random.fork_rng(devices=[]):
        return digest(code_fingerprint(arch, own_network(arch)))


def own_files_digest(start: str, arch: str) -> str:
    """Both digests, one after the other: "" where a training takes nothing from files of the user's."""
    return start_digest(start) + code_digest(arch)


def initial_model(data: Dataset, config: TrainConfig) -> Classifier:
    """The model before the first step; a function of data, config and the model that the config starts from.

    Where it starts from one, the last layer alone is new: all else, and how pixels are normalised, is that model's.

    Raises:
        InputError: if that model cannot be loaded, or is another network up to its last layer.
    """
    model = build(config.arch, data, config.seed)
    return _begun(model, config) if config.start else model


def check_learns(model: Classifier, images: Images, config: TrainConfig) -> None:
    """Refuse a network whose answer has no gradient: to any weight or, with a threat, to the pixels.

    Args:
        model: before the first step; left as it is.
        images: some of the training images, (n, c, h, w) in [0, 1].
        config: whether an attack climbs that gradient.

    Raises:
        InputError: if the answer does not hang together with them by operations that torch differentiates.
    """
    model, x = copy.deepcopy(model), images.clone().requires_grad_()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    way = "look for detach, no_grad, NumPy or requires_grad=False on the way to its answer"
    with torch.random.fork_rng(devices=[]):
        if not _reached(model.train()(x), weights):
            raise InputError(f"{config.arch} cannot be trained: its answer has no gradient to any weight; {way}")
        if config.threat is not None and not _reached(model.eval()(x), [x]):
            raise InputError(f"{config.arch} cannot be trained against {config.threat}: no gradient to pixels; {way}")


def _reached(logits: Logits, leaves: Sequence[Tensor]) -> bool:
    """Whether the logits have a gradient to any of the leaves."""
    if not (leaves and logits.requires_grad):
        return False
    gradients = torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
    return any(gradient is not None for gradient in gradients)


def _begun(model: Classifier, config: TrainConfig) -> Classifier:
    file = config.start.endswith(PACKED)
    source = load_file(Path(config.start), own_code=config.arch) if file else load_model(config.start)
    if not (isinstance(source, nn.Sequential) and len(source) == 2 and isinstance(source[0], Pixels)):
        raise InputError(f"start must be a saved model, zoo:NAME or torchvision:NAME, got {config.start}")
    theirs = {f"pixels.{name}": value for name, value in source[0].state_dict().items()}
    theirs |= {f"network.{name}": value for name, value in source[1].state_dict().items()}
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise InputError(
            f"start needs a network that ends in a linear layer, which would be new; {config.arch} has none"
        )
    head = linear[-1] + "."
    begun = {name: value for name, value in theirs.items() if not name.startswith(head)}
    begun |= {name: value for name, value in model.state_dict().items() if name.startswith(head)}
    check_fits(begun, model, Path(config.start))
    model.load_state_dict(begun)
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (source[0].mean, source[0].std))
    model.card = replace(model.card, mean=mean, std=std)
    return model
