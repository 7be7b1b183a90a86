"""Who says that an image shows a class, other than the model that made it: robust models, and real images."""

import torch
from torch import Tensor

from nofreelunch.experiments.batches import logits_of
from nofreelunch.experiments.deep import Exhibit
from nofreelunch.experiments.estimates import ByRole, geometric_mean, share
from nofreelunch.features import nearest_of_each_class


def judged(exhibit: Exhibit, x: Tensor, y: Tensor, made: dict[str, Tensor], seen: dict[str, Tensor]) -> ByRole:
    """For each role how far its examples are taken for what its model takes them for.

    Distances are in units of the typical distance of a real test image to the nearest training image of its class;
    classes that have none, or of which these are the same images, are left out of them.
    """
    near = torch.split(nearest_of_each_class(torch.cat([x, *made.values()]), exhibit.data.train).distance, len(x))
    real, nearest = near[0], dict(zip(made, near[1:], strict=True))
    typical = torch.stack([real[y.cpu() == k, k].log().mean().exp() for k in range(len(exhibit.data.classes))])
    estimates: ByRole = {}
    for role, z in made.items():
        changed = seen[role] != y
        moved = [logits_of(exhibit.models[role], made[other]).argmax(1) != y for other in made if other != role]
        estimates[role] = {"changed": share(changed)}
        if moved:
            estimates[role]["moved by others"] = share(torch.stack(moved).any(0))
        if int(changed.sum()) < 2:
            continue
        new = seen[role][changed]
        for judge in exhibit.judges(role):
            estimates[role][f"judged {judge}"] = share(logits_of(exhibit.models[judge], z[changed]).argmax(1) == new)
        changed, new = changed.cpu(), new.cpu()
        estimates[role]["nearest"] = share(nearest[role][changed].argmin(1) == new)
        far = torch.stack([_of(distances[changed], new) / typical[new] for distances in (nearest[role], real)])
        far = far[:, ((far > 0) & far.isfinite()).all(0)]
        if far.shape[1] > 1:
            estimates[role] |= {"distance": geometric_mean(far[0]), "distance before": geometric_mean(far[1])}
    return estimates


def _of(distances: Tensor, classes: Tensor) -> Tensor:
    """Each row's distance to its class."""
    return distances.gather(1, classes[:, None]).squeeze(1)
