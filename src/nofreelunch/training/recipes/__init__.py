"""Ways to train, by name: one file each over the shared loop."""

from nofreelunch.training.recipes.base import InnerProblem, Recipe
from nofreelunch.training.recipes.bullet_train import BULLET_TRAIN
from nofreelunch.training.recipes.fgsm_rs import FGSM_RS
from nofreelunch.training.recipes.free import FREE
from nofreelunch.training.recipes.n_fgsm import N_FGSM
from nofreelunch.training.recipes.pgd_at import PGD_AT
from nofreelunch.training.recipes.standard import STANDARD
from nofreelunch.training.recipes.trades import TRADES

RECIPES: dict[str, Recipe] = {
    "standard": STANDARD,
    "pgd-at": PGD_AT,
    "bullet-train": BULLET_TRAIN,
    "fgsm-rs": FGSM_RS,
    "n-fgsm": N_FGSM,
    "free": FREE,
    "trades": TRADES,
}

__all__ = ["RECIPES", "InnerProblem", "Recipe"]
