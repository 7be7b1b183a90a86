"""Training, standard and adversarial, that survives being stopped."""

from nofreelunch.training.config import TrainConfig
from nofreelunch.training.recipes import RECIPES
from nofreelunch.training.train import train

__all__ = ["RECIPES", "TrainConfig", "train"]
