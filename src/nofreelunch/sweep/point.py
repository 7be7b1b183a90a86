"""What one point of a sweep is: a training, and the examination of the model that comes out."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from nofreelunch.attacks import ATTACKS
from nofreelunch.errors import InputError, check_count, check_known, check_seed
from nofreelunch.evaluation import PROTOCOLS
from nofreelunch.threats import Threat
from nofreelunch.training import TrainConfig
from nofreelunch.workspace import digest, to_json


@dataclass(frozen=True)
class Exam:
    """How a trained model is examined on test images.

    Args:
        threats: what it is attacked within; one examination each.
        protocol: name in `PROTOCOLS`, with all its checks; or None.
        attack: name in `ATTACKS`, run alone: cheaper, and an upper bound of the robust accuracy; or None.
        n: number of test images, chosen at random.
        seed: of their choice, and of the attacks.

    Raises:
        InputError: unless exactly one of protocol and attack is given, by a known name, and the counts are counts.
    """

    threats: tuple[Threat, ...]
    protocol: str | None = None
    attack: str | None = None
    n: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.protocol is None) == (self.attack is None):
            raise InputError(f"give either protocol or attack, got {self.protocol!r} and {self.attack!r}")
        if self.protocol is not None:
            check_known("protocol", self.protocol, PROTOCOLS)
        if self.attack is not None:
            check_known("attack", self.attack, ATTACKS)
        check_count("n", self.n)
        check_seed(self.seed)

    @property
    def method(self) -> str:
        """The name that stands in the table."""
        return str(self.protocol or self.attack)

    @property
    def digest(self) -> str:
        """SHA-256 of all settings."""
        return digest(to_json(self))


@dataclass(frozen=True)
class Point:
    """One point.

    Args:
        data: as `load_data` takes it.
    """

    data: str
    config: TrainConfig
    exam: Exam

    @property
    def settings(self) -> dict[str, Any]:
        """All that can be varied, flat, as people write it; without a threat its norm is "" and its eps 0."""
        fields = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(self.config)}
        threat = fields.pop("threat")
        if threat is None:
            return {"data": self.data, "threat": "", "eps": 0.0, **fields, "recipe": "standard"}
        return {"data": self.data, "threat": threat.norm, "eps": threat.eps, **fields}

    def training_digest(self, data_digest: str, own_files_digest: str = "") -> str:
        """SHA-256 of what the trained model depends on: settings, data, and the user's files that it begins with."""
        start = {"start": own_files_digest} if own_files_digest else {}
        return digest(to_json({"config": self.config, "data": data_digest, **start}))
