"""The experiments by name, in the paper's order: one line for each."""

from nofreelunch.experiments import figure_2, table_4, theorem_2_1, theorem_2_2, transferability
from nofreelunch.experiments.base import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (theorem_2_1, theorem_2_2, transferability, figure_2, table_4)
}
