"""A grid of trainings and examinations: on this machine, or on a Ray cluster; restartable anywhere."""

from nofreelunch.sweep.spec import Spec, read_spec
from nofreelunch.sweep.work import Score, Task

__all__ = ["Score", "Spec", "Task", "read_spec"]
