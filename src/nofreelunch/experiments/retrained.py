"""Models that an experiment trains for itself, once, in its workspace."""

from rich.console import Console

from nofreelunch.data import Dataset
from nofreelunch.models import Classifier
from nofreelunch.threats import Threat
from nofreelunch.training import train
from nofreelunch.training.presets import preset
from nofreelunch.training.progress import shown
from nofreelunch.workspace import Workspace


def trained(scale: str, data: Dataset, threat: Threat | None, seed: int, workspace: Workspace) -> Classifier:
    """The model of a preset, trained into the workspace's `models`; a stopped one goes on, a finished one is found.

    Progress is shown on stderr.

    Args:
        scale: of the preset, a name in `training.presets.PRESETS`.
        data: whole, not a sample.
    """
    label = f"{threat.norm}-{threat.eps}" if threat else "standard"
    folder = workspace.root / "models" / f"{data.name}-{label}-{scale}-{seed}"
    console = Console(stderr=True)
    console.print(f"model {folder.name}", markup=False, highlight=False, soft_wrap=True)
    with shown(console) as report:
        return train(data, preset(scale, data.name, threat, seed), folder, workspace.device, report)
