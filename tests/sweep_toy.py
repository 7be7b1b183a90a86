"""A sweep of eight trainings that take a fraction of a second each, on a data set that takes as long to save."""

import json
from pathlib import Path

import numpy as np

from nofreelunch.data import Split
from training_toy import DATA

SPEC = """
[train]
arch = "linear"
threat = "linf"
epochs = 2
batch_size = 32
lr = 0.02
holdout = 0.25
attack_precision = "float32"

[grid]
eps = [0, "1/20", 0.08, 0.1]
seed = [0, 1]

[evaluate]
attack = "pgd-10"
n = 100
threats = ["linf 0.1"]

[run]
save_seconds = 60
"""
STEPS = 12  # of each


def write_data(path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    splits: dict[str, Split] = {"train": DATA.train, "test": DATA.test}
    for name, split in splits.items():
        arrays |= {f"x_{name}": split.x.numpy()[:, 0], f"y_{name}": split.y.numpy()}
    np.savez(path, allow_pickle=False, **arrays)


def write_spec(folder: Path, content: str = SPEC, **replaced: str) -> Path:
    """The spec in a folder, with its data beside it; `replaced` maps a setting to its new text, "" removes it."""
    write_data(folder / "toy.npz")
    content = content.replace("[train]", f"[train]\ndata = {json.dumps('npz:' + str(folder / 'toy.npz'))}")
    lines = []
    for line in content.splitlines():
        name = line.split(" = ")[0]
        text = f"{name} = {replaced[name]}" if replaced.get(name) else line
        lines += [] if replaced.get(name) == "" else [text]
    path = folder / "toy.toml"
    path.write_text("\n".join(lines))
    return path
