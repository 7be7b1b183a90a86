"""Restricted ImageNet in the figures: shown where its images and models are, named where they are not, at no cost."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nofreelunch.data import Dataset, imagenet, load_data
from nofreelunch.experiments import deep, figure_1, figure_3, figure_4, figure_5
from nofreelunch.experiments.base import Experiment
from nofreelunch.experiments.explanation import Settings, explain
from nofreelunch.experiments.gallery import unpacked
from nofreelunch.experiments.judges import judged
from nofreelunch.experiments.runner import reproduce
from nofreelunch.models import Classifier, build
from nofreelunch.threats import L2, Linf
from nofreelunch.training import TrainConfig
from nofreelunch.workspace import Workspace, plain

NAME, SIDE = "restricted-imagenet", 16
FIGURES = (figure_1.EXPERIMENT, figure_3.FIGURE_3, figure_4.EXPERIMENT, figure_5.FIGURE_5)
THREATS_OF = {f"{NAME}-standard": None, f"{NAME}-linf-0.005": Linf(0.005), f"{NAME}-l2-1": L2(1.0)}


def plant(root: Path, train: int = 4, test: int = 3) -> Path:
    """A tree of pictures of 24 x 24, each with the colour of its class; no crabs, and no insects to train on."""
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 196, (9, 3))
    for label, indices in enumerate(imagenet.TABLE_1.values()):
        wnid = imagenet.wnids()[indices[0]]
        for part, count in (("train", 0 if label >= 7 else train), ("val", 0 if label == 7 else test)):
            (root / part / wnid).mkdir(parents=True)
            for k in range(count):
                noise = rng.integers(-60, 60, (24, 24, 3))
                image = Image.fromarray((colours[label] + noise).astype(np.uint8))
                image.save(root / part / wnid / f"{part}-{label}-{k}.png")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def zoo(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Classifier]]:
    """Untrained models for images of 16 x 16 in place of the package's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOFREELUNCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        data = load_data(NAME, tree, size=SIDE)
        there = {name: made(data, name, seed) for seed, name in enumerate(THREATS_OF)}
        for module in (deep, figure_1):
            patch.setattr(module, "zoo_names", lambda: tuple(there))
            patch.setattr(module, "zoo_card", lambda name: there[name].card)
            patch.setattr(module, "load_model", lambda spec: there[spec.removeprefix("zoo:")])
        patch.setattr(deep, "zoo_digest", lambda name: str(id(there[name])))
        yield there


def made(data: Dataset, name: str, seed: int) -> Classifier:
    model = build("mnist-cnn-small", data, seed)
    with torch.no_grad():  # so that another class can be reached within the ball
        for weight in model.parameters():
            weight.mul_(2)
    recipe = plain(TrainConfig(threat=THREATS_OF[name]))
    model.card = replace(model.card, data=NAME, recipe=recipe)
    return model.eval()


def small(experiment: Experiment) -> object:
    return replace(experiment.presets["smoke"], n=18, datasets=(NAME,))


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda each: each.name)
def test_a_figure_shows_it_at_the_size_of_its_models(
    experiment: Experiment, zoo: dict[str, Classifier], tree: Path, tmp_path: Path
) -> None:
    """The tree's images are larger, one class has no images at all and one none to compare with."""
    result = reproduce(experiment, small(experiment), Workspace(tmp_path, data_root=tree), "", lambda line: None)
    findings = experiment.findings(result)
    assert not [finding for finding in findings if "not there" in finding.claim]
    assert any("Restricted ImageNet" in finding.claim for finding in findings)
    if experiment is figure_1.EXPERIMENT:
        assert len(result.points) == 4
    else:
        assert result.roles == {NAME: deep.ROLES}
        assert unpacked(result.pictures, result.shapes)[NAME].shape[2:] == (SIDE, SIDE, 3)


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda each: each.name)
def test_a_figure_names_images_that_are_not_there(
    experiment: Experiment, zoo: dict[str, Classifier], tmp_path: Path
) -> None:
    for config in (small(experiment), replace(small(experiment), retrain="paper")):
        result = experiment.run(config, Workspace(tmp_path))
        (finding,) = experiment.findings(result)
        assert finding.ours == f"the images of {NAME}"
        assert "none of the models is there" in experiment.alt(result)
    assert experiment.inputs
    assert experiment.inputs(config, Workspace(tmp_path)) == {}


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda each: each.name)
def test_a_tree_without_models_is_not_read(
    experiment: Experiment, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (deep, figure_1):
        monkeypatch.setattr(module, "zoo_names", lambda: ())
    monkeypatch.setattr(deep, "load_data", lambda *_: pytest.fail("images were read"))
    config = replace(small(experiment), datasets=tuple(deep.DATA_TITLES))
    result = reproduce(experiment, config, Workspace(tmp_path, data_root=tree), "", lambda line: None)
    (finding,) = experiment.findings(result)
    assert str(finding.ours).endswith(", ".join(THREATS_OF))


def test_it_is_among_the_data_sets_of_every_figure() -> None:
    figures = (*FIGURES, figure_3.FIGURE_6, figure_3.FIGURE_7, figure_5.FIGURE_8)
    assert all(NAME in config.datasets for figure in figures for config in figure.presets.values())


@pytest.fixture
def crabs(zoo: dict[str, Classifier]) -> Classifier:
    """A model that sees crabs everywhere, of which there is no image."""
    model = copy.deepcopy(zoo[f"{NAME}-standard"])
    with torch.no_grad():
        model.network.fc2.bias.add_(torch.tensor([0.0] * 7 + [1000.0, 0.0]))
    return model


def test_a_class_without_training_images_is_at_no_distance(crabs: Classifier, tree: Path) -> None:
    exhibit = deep.Exhibit(NAME, load_data(NAME, tree, size=SIDE), {"standard": crabs, "linf": crabs})
    x, y = exhibit.test_images(9, 0)
    found = judged(exhibit, x, y, {"standard": x}, {"standard": crabs(x).argmax(1)})["standard"]
    assert set(found) == {"changed", "judged linf", "nearest"}
    assert found["nearest"][0] == 0


def test_test_images_that_are_trained_on_measure_no_distance(crabs: Classifier, tree: Path) -> None:
    """As in a tree without `train`: every image is its own nearest one."""
    data = load_data(NAME, tree, size=SIDE)
    exhibit = deep.Exhibit(NAME, replace(data, train=data.test), {"standard": crabs, "linf": crabs})
    x, y = exhibit.test_images(9, 0)
    assert "distance" not in judged(exhibit, x, y, {"standard": x}, {"standard": (y + 1) % 7})["standard"]


def test_a_class_without_training_images_has_no_nearest_one(crabs: Classifier, tree: Path) -> None:
    """What the model sees in an example may be a class of which there is nothing to show: white."""
    found = explain(crabs, load_data(NAME, tree, size=SIDE), Settings(L2(1.0), n=3, measure=3, points=2))
    assert found.labels[2] == ("Crab",) * 3
    assert (found.examples[2] == 255).all()
    assert not (found.examples[1] == 255).all()
