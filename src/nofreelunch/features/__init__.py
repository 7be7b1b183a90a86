"""What a classifier's features are: correlations with the label, gradients, examples far away."""

from nofreelunch.features.alignment import Alignment, edge_map, gradient_alignment, hoyer_sparsity
from nofreelunch.features.correlation import feature_label_correlation, top_correlated
from nofreelunch.features.gradients import gradient_pictures, input_gradient, log_odds
from nofreelunch.features.interpolation import interpolate
from nofreelunch.features.large_eps import large_eps_attack, large_eps_examples
from nofreelunch.features.neighbours import Neighbours, nearest_of_each_class

__all__ = [
    "Alignment",
    "Neighbours",
    "edge_map",
    "feature_label_correlation",
    "gradient_alignment",
    "gradient_pictures",
    "hoyer_sparsity",
    "input_gradient",
    "interpolate",
    "large_eps_attack",
    "large_eps_examples",
    "log_odds",
    "nearest_of_each_class",
    "top_correlated",
]
