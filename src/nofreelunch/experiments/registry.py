"""The experiments by name, in the paper's order: one line for each."""

from nofreelunch.experiments import (
    figure_1,
    figure_2,
    figure_3,
    figure_4,
    figure_5,
    table_4,
    theorem_2_1,
    theorem_2_2,
    transferability,
)
from nofreelunch.experiments.base import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        figure_1.EXPERIMENT,
        theorem_2_1.EXPERIMENT,
        theorem_2_2.EXPERIMENT,
        transferability.EXPERIMENT,
        figure_2.EXPERIMENT,
        table_4.EXPERIMENT,
        figure_3.FIGURE_3,
        figure_4.EXPERIMENT,
        figure_5.FIGURE_5,
        figure_3.FIGURE_6,
        figure_3.FIGURE_7,
        figure_5.FIGURE_8,
    )
}
