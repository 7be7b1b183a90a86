"""Random numbers that belong to the example, not to the batch.

Each example has a key; its random numbers are a hash of (key, draw, position). So an example gets the same numbers
alone, in a batch of any size, in any order, and after its neighbours have left: results do not depend on how the work
was cut up (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the mixer is SplitMix64's finaliser,
Steele et al. 2014).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nofreelunch.errors import InputError

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer: odd, so multiplication permutes
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_MASK_64 = (1 << 64) - 1


def _shift(bits: Tensor, count: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """A permutation of the 64-bit integers that spreads every input bit over the output."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def _signed(value: int) -> int:
    value &= _MASK_64
    return value - (1 << 64) if value >> 63 else value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators start from the seed in the block, and are left as they were, those of GPUs included."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if used else []):
        torch.default_generator.manual_seed(seed)
        if used:
            torch.cuda.manual_seed_all(seed)
        yield


class Streams:
    """One random stream per example.

    Args:
        keys: int64 (n,), one key per example.
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys = keys
        self._draws = 0

    @classmethod
    def for_examples(cls, seed: int, indices: Tensor) -> "Streams":
        """Streams of the examples with these indices (int64, (n,)) in their data set, under one seed."""
        return cls(_mix(_mix(indices.long() * _GOLDEN) + _signed(seed * _MIX_1 + 1)))

    @classmethod
    def numbered(cls, seed: int, n: int, device: torch.device | str = "cpu") -> "Streams":
        """Streams of the examples 0 to n - 1."""
        return cls.for_examples(seed, torch.arange(n, device=device))

    @classmethod
    def of(cls, rng: "torch.Generator | Streams", n: int, device: torch.device | str = "cpu") -> "Streams":
        """Streams for n examples from what the caller has: streams, or a generator, from which one seed is drawn."""
        if not isinstance(rng, (Streams, torch.Generator)):
            raise InputError(f"rng must be a generator, got {rng!r}; write torch.Generator().manual_seed(0)")
        if isinstance(rng, Streams):
            if len(rng) != n:
                raise InputError(f"rng holds {len(rng)} streams for {n} examples")
            return rng.to(device)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        return cls.numbered(seed, n, device)

    @classmethod
    def joined(cls, parts: "Sequence[Streams]") -> "Streams":
        """The streams of several batches, each of which has drawn as often as the first, one after the other."""
        return parts[0]._with(torch.cat([part._keys for part in parts]))

    def __len__(self) -> int:
        return len(self._keys)

    def to(self, device: torch.device | str) -> "Streams":
        """These streams with their keys on `device`; itself if they are there already."""
        return self if self._keys.device == torch.device(device) else self._with(self._keys.to(device))

    def take(self, index: Tensor | slice) -> "Streams":
        """The streams of some of the examples, at the same point of each stream."""
        return self._with(self._keys[index])

    def fork(self, tag: int) -> "Streams":
        """Independent streams for a part of the work (an attack, a restart); the parents are not advanced."""
        return Streams(_mix(self._keys + _signed((2 * tag + 1) * _GOLDEN)))

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, *shape) uniform on [0, 1)."""
        return (_shift(self._bits(shape), 40).to(dtype)).mul_(2.0**-24)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, *shape) standard normal, by Box and Muller's transform."""
        bits = self._bits(shape)
        radius = (-2 * torch.log1p(-(_shift(bits, 40).to(torch.float64) * 2.0**-24))).sqrt_()
        angle = (bits & ((1 << 24) - 1)).to(torch.float64) * (2 * math.pi * 2.0**-24)
        return (radius * angle.cos_()).to(dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(n, *shape) int64, uniform on 0 .. high - 1."""
        return _shift(self._bits(shape), 1) % high

    def _with(self, keys: Tensor) -> "Streams":
        streams = Streams(keys)
        streams._draws = self._draws
        return streams

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) fresh 64-bit hashes; advances every stream by one draw."""
        self._draws += 1
        count = math.prod(shape)
        start = _mix(self._keys + _signed(self._draws * _GOLDEN))
        places = torch.arange(count, device=self._keys.device) * _GOLDEN
        return _mix(start[:, None] + places).view(len(self), *shape)
