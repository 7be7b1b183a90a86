"""Numbers with their uncertainty, and with the reasons not to believe them.

`evaluate` goes through these phases; the journal keeps what each has found, so that a killed run goes on.

1. `checks_before`: is the model a function, may it be differentiated; this settles the `view` that attacks look at.
2. The examples as they are; `operations`: the exact answer if the model is affine.
3. The protocol's first attack; `checks_at_ends`: are gradient and scores true where it has arrived.
4. `adaptive`: `remedies` (surrogates, decision-based attacks and others) are tried on a sample, and run where better.
5. The rest of the protocol (`protocols`, `steps`), and attacks of the caller's.
6. `checks_after`: is what still stands broken by more steps, by a larger ball, by attacks that give nothing up.
7. `checks_outside`: does the caller's own object answer like its copies; `interval_bounds`: what can be proven.

All of them share a `Trial`. Only `Trial.settle` counts an example as broken, after the original model's verdict on the
point as it would be stored; what a check breaks on its way is noted, and counted at the end. Checks are in `trust`.
"""

from nofreelunch.evaluation.evaluate import evaluate
from nofreelunch.evaluation.foreign import foreign
from nofreelunch.evaluation.protocols import PROTOCOLS, Protocol
from nofreelunch.evaluation.result import Evaluation, Flag
from nofreelunch.evaluation.sweep import Sweep, sweep
from nofreelunch.evaluation.tally import Tally

__all__ = ["PROTOCOLS", "Evaluation", "Flag", "Protocol", "Sweep", "Tally", "evaluate", "foreign", "sweep"]
