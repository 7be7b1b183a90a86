"""Networks of timm and Hugging Face, if these are installed. Weights are safetensors; no code of a hub's is run."""

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nofreelunch.errors import InputError, needed, reason
from nofreelunch.models.declared import Declared, Normalisation
from nofreelunch.models.foreign import Weights, read_weights
from nofreelunch.models.sources import LoadedNetwork, filled
from nofreelunch.workspace import read_json

_INDEX = "model.safetensors.index.json"


def from_timm(name: str, weights: Weights | None) -> LoadedNetwork:
    """A network of timm; without a file, with its weights on the Hugging Face hub."""
    timm = needed("timm", f"timm:{name}")
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=5))
        raise InputError(f'unknown timm model "{name}"; near it are: {near or "none"}; timm.list_models() lists all')
    about: dict[str, Any] = timm.create_model(name, pretrained=False).pretrained_cfg
    if weights is None:
        weights = read_weights(_downloaded(name, about.get("hf_hub_id")))
    network = filled(lambda **options: timm.create_model(name, pretrained=False, **options), weights)
    size = about["input_size"][1:] if about.get("fixed_input_size") else (None, None)
    return LoadedNetwork(network, Normalisation(tuple(about["mean"]), tuple(about["std"])), size)


def _downloaded(name: str, repository: str | None) -> Path:
    """The safetensors file of a timm model, from the hub or from what was downloaded before."""
    try:
        if not repository:
            raise OSError("they are not on the hub")
        hub = import_module("huggingface_hub")
        return Path(hub.hf_hub_download(repository, "model.safetensors"))
    except OSError as error:  # of the network, of the hub, of the disk
        told = f"timm:{name}: its weights cannot be downloaded ({reason(error)}); give --weights FILE"
        raise InputError(told) from None


class Logits(nn.Module):
    """The logits among a Hugging Face model's answers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        logits: Tensor = self.network(pixel_values=x, return_dict=True).logits
        return logits


def from_hugging_face(name: str) -> LoadedNetwork:
    """An image classifier in Hugging Face's layout: a folder, or a name on the hub."""
    transformers = needed("transformers", f"hf:{name}")
    if Path(name).is_dir():
        _check_folder(Path(name))
    loud = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        network, seen = transformers.AutoModelForImageClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # it fails in as many ways as there are files
        raise InputError(f"hf:{name} was refused, and no code of its own was run: {reason(error)}") from None
    finally:
        transformers.logging.set_verbosity(loud)
    if seen["missing_keys"]:
        raise InputError(f"hf:{name} has no weights for {min(seen['missing_keys'])}; it is not a trained classifier")
    return LoadedNetwork(Logits(network), _normalisation(name, transformers))


def _check_folder(folder: Path) -> None:
    """Refuse an index of weights that leads out of the folder."""
    if not (folder / _INDEX).exists():
        return
    index = read_json(folder / _INDEX)
    parts = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(parts, dict):
        raise InputError(f"{folder / _INDEX} is no index of weights")
    if outside := [part for part in parts.values() if Path(str(part)).name != part]:
        raise InputError(f"{folder / _INDEX} leads out of the folder, to {outside[0]}; it was not followed")


def _normalisation(name: str, transformers: Any) -> Normalisation | None:
    """What the model's image processor does to pixels; None if it has none."""
    try:
        about, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:  # there is no such file: the user may declare what should stand there
        return None
    scale = 255 * about.get("rescale_factor", 1 / 255) if about.get("do_rescale", True) else 255.0
    mean, std = (about.get(key) if about.get("do_normalize", True) else None for key in ("image_mean", "image_std"))
    try:
        said = Declared(mean and tuple(mean), std and tuple(std), (0.0, scale))
    except (InputError, TypeError) as error:
        raise InputError(f"hf:{name}: its preprocessor_config.json describes no normalisation: {error}") from None
    return said.normalisation()
