"""Random numbers belong to the example: independent of the batch, uniform, and reproducible."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nofreelunch.rng import Streams

SEEDS = st.integers(min_value=0, max_value=2**62)


def streams(seed: int, n: int = 64) -> Streams:
    return Streams.for_examples(seed, torch.arange(n))


@given(seed=SEEDS, index=st.lists(st.integers(0, 63), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_an_example_gets_the_same_numbers_in_any_company(seed: int, index: list[int]) -> None:
    whole, part = streams(seed), streams(seed).take(torch.tensor(index))
    for _ in range(3):
        assert torch.equal(whole.uniform(5)[index], part.uniform(5))
        assert torch.equal(whole.normal(2, 3)[index], part.normal(2, 3))
        assert torch.equal(whole.integers(7)[index], part.integers(7))


def test_taking_examples_half_way_keeps_their_place() -> None:
    whole, other = streams(3), streams(3)
    whole.uniform(4), other.uniform(4)
    rest = other.take(torch.tensor([5, 9]))
    assert torch.equal(whole.uniform(4)[[5, 9]], rest.uniform(4))


def test_draws_forks_seeds_and_examples_differ() -> None:
    base = streams(0)
    draws = [
        base.uniform(100),
        base.uniform(100),
        base.fork(0).uniform(100),
        base.fork(1).uniform(100),
        streams(1).uniform(100),
    ]
    for i, a in enumerate(draws):
        assert len(a.unique(dim=0)) == len(a)
        for b in draws[i + 1 :]:
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 4.5 / 6400**0.5


def test_forking_does_not_advance_the_parent() -> None:
    a, b = streams(0), streams(0)
    a.fork(3).uniform(2)
    assert torch.equal(a.uniform(2), b.uniform(2))


def test_distributions() -> None:
    u, z = streams(7, 400).uniform(250), streams(8, 400).normal(250)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    counts = torch.bincount(streams(9, 400).integers(10, 250).flatten(), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_neighbouring_examples_are_independent(seed: int) -> None:
    u = streams(seed, 20).uniform(2000)
    off_diagonal = torch.corrcoef(u) - torch.eye(20)
    assert off_diagonal.abs().max() < 5.5 / 2000**0.5


def test_a_generator_gives_its_seed_once() -> None:
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(Streams.of(a, 3).uniform(2), Streams.of(b, 3).uniform(2))
    assert not torch.equal(Streams.of(a, 3).uniform(2), Streams.of(torch.Generator().manual_seed(2), 3).uniform(2))


def test_streams_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 streams for 3 examples"):
        Streams.of(streams(0), 3)
