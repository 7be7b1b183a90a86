"""What is done where a model's own gradient does not lead to its boundary.

Other functions are climbed in the model's place (`wrappers`, `bpda`, `inner`, `substitute`, by `surrogate_pgd`), other
points tried (`confined`, `boundary_gradient`, `coordinate_ascent`), labels alone asked for (`decision_based`), and what
the model decides is looked behind (`decisions`, `switches`). `evaluation/catalogue.py` names them all, and tries them.
"""
