"""How large the files of a run become: known before its first step."""

from nofreelunch.models import Classifier
from nofreelunch.training.config import TrainConfig
from nofreelunch.training.learner import Learner
from nofreelunch.training.optimisers import optimiser_bytes

_STATES = 2  # that a folder keeps


def state_bytes(config: TrainConfig, learner: Learner) -> int:
    """Bytes of the learner's state once it has made a step and, if any images are held out, been validated."""
    copies = 1 + (learner.average is not None) + (config.holdout > 0)
    carried = 0 if learner.delta is None else learner.delta.nbytes
    return copies * _model_bytes(learner.model) + carried + optimiser_bytes(config.optimiser, learner.model)


def folder_bytes(config: TrainConfig, learner: Learner) -> int:
    """Bytes of what the run's folder holds at the end, its log apart: two states and the model."""
    return _STATES * state_bytes(config, learner) + _model_bytes(learner.model)


def _model_bytes(model: Classifier) -> int:
    return sum(value.nbytes for value in model.state_dict().values())
