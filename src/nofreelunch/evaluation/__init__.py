"""Numbers with their uncertainty, and with the reasons not to believe them."""

from nofreelunch.evaluation.evaluate import evaluate
from nofreelunch.evaluation.foreign import foreign
from nofreelunch.evaluation.protocols import PROTOCOLS, Protocol
from nofreelunch.evaluation.result import Evaluation, Flag
from nofreelunch.evaluation.sweep import Sweep, sweep
from nofreelunch.evaluation.tally import Tally

__all__ = ["PROTOCOLS", "Evaluation", "Flag", "Protocol", "Sweep", "Tally", "evaluate", "foreign", "sweep"]
