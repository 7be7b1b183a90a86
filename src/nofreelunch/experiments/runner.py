"""Runs experiments into a workspace: compute what is missing, save it, draw it; never compute the same thing twice."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nofreelunch.drawing import drawn
from nofreelunch.errors import InputError
from nofreelunch.experiments.base import Experiment, Scale
from nofreelunch.files import atomic_write
from nofreelunch.workspace import Workspace, digest, plain, to_json, versions

Say = Callable[[str], None]

_BESIDE = {"cli", "app", "report", "sweep"}
"""Parts of the package on which no result depends."""


def configured(experiment: Experiment, scale: Scale, changes: Mapping[str, object]) -> Any:
    """The preset's config with the changes that it knows; a change set to None, or to a field it lacks, is left out."""
    config = experiment.presets[scale]
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{key: v for key, v in changes.items() if key in known and v is not None})


def reproduce(experiment: Experiment, config: Any, workspace: Workspace, command: str, say: Say) -> Any:
    """Compute the experiment, unless its result is there and config, code, libraries, data and machine are the same.

    Leaves `results/NAME.json` (+ `.npz`) and `figures/NAME.svg` and `.png`. A result of another config is moved aside
    to `results/previous`, never overwritten.

    Returns:
        The result if it was computed now, else None.
    """
    key = _key(experiment, config, workspace)
    if _is_current(experiment, key, workspace):
        say(f"{experiment.name}: unchanged, kept")
        return None
    say(f"{experiment.name}: {experiment.title} ...")
    start = time.perf_counter()
    result = experiment.run(config, workspace)
    seconds = time.perf_counter() - start
    findings = experiment.findings(result)
    pictures = drawn(experiment.plot, result)
    _move_aside(experiment.name, workspace)
    for suffix, content in pictures.items():
        atomic_write(_figure_path(experiment.name, workspace, suffix), content)
    about = {
        "experiment": experiment.name,
        "title": experiment.title,
        "about": experiment.about,
        "paper_reference": experiment.paper_reference,
        "alt": experiment.alt(result),
        "table": plain(experiment.table(result)) if experiment.table else None,
        "config": plain(config),
        "key": key,
        "findings": [{**plain(finding), "difference": finding.difference} for finding in findings],
        "command": command,
        "seconds": seconds,
        "versions": versions(),
        "figures": {suffix: digest(content) for suffix, content in pictures.items()},
    }
    workspace.save(experiment.name, result, **about)
    say(f"{experiment.name}: done in {seconds:.1f} s")
    return result


def _is_current(experiment: Experiment, key: str, workspace: Workspace) -> bool:
    """Whether a result with this key is there, whole, with its figures."""
    try:
        about: dict[str, Any] = workspace.load(experiment.name, experiment.result_type)[1]
    except InputError:  # there is none, or it is damaged, or of another version
        return False
    figures = about.get("figures", {})
    whole = all(_is(_figure_path(experiment.name, workspace, suffix), sha) for suffix, sha in figures.items())
    return about.get("key") == key and bool(figures) and whole


def _key(experiment: Experiment, config: Any, workspace: Workspace) -> str:
    """What the result depends on: config, our code, the numeric libraries, and the data's content."""
    depends = {
        "experiment": experiment.name,
        "config": plain(config),
        "source": _source_digest(),
        "versions": versions(),
    }
    if experiment.inputs:
        depends["inputs"] = dict(experiment.inputs(config, workspace))
    return digest(to_json(depends))


def _source_digest() -> str:
    """Of all our code that a result may depend on: what only asks for results, or shows them, is left out."""
    package = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in _BESIDE:
            sha.update(str(name).encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def _move_aside(name: str, workspace: Workspace) -> None:
    folder = workspace.root / "results"
    if not (folder / f"{name}.json").exists():
        return
    aside = f"{name}-{digest((folder / f'{name}.json').read_bytes())[:12]}"
    (folder / "previous").mkdir(exist_ok=True)
    for suffix in (".json", ".npz"):
        if (folder / f"{name}{suffix}").exists():
            (folder / f"{name}{suffix}").replace(folder / "previous" / f"{aside}{suffix}")


def _figure_path(name: str, workspace: Workspace, suffix: str) -> Path:
    return workspace.root / "figures" / f"{name}{suffix}"


def _is(path: Path, sha: str) -> bool:
    return path.exists() and digest(path.read_bytes()) == sha
