"""What is done where a model's own gradient does not lead to its boundary.

`catalogue` names all remedies and tries them. They climb other functions in the model's place (`wrappers`, `bpda`,
`inner`, `substitute`, by `surrogate_pgd`), go to other points (`confined`, `boundary_gradient`, `coordinate_ascent`),
ask for labels alone (`decision_based`), or look behind what the model decides (`decisions`, `switches`).
"""
