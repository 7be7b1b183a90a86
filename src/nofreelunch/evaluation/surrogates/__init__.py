"""Functions to take gradients from where the model's own cannot be trusted."""
