"""Networks that take pixels, on disk and by name, and their fast copies."""

from nofreelunch.models.classifier import Card, Classifier
from nofreelunch.models.fast import fast
from nofreelunch.models.files import save_model
from nofreelunch.models.registry import ARCHITECTURES, build
from nofreelunch.models.specs import load_model, zoo_card, zoo_digest
from nofreelunch.names import zoo_names

__all__ = [
    "ARCHITECTURES",
    "Card",
    "Classifier",
    "build",
    "fast",
    "load_model",
    "save_model",
    "zoo_card",
    "zoo_digest",
    "zoo_names",
]
