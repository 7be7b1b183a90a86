"""Tally: Wilson's interval against its definition, limits and coverage."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nofreelunch.errors import InputError
from nofreelunch.evaluation import Tally

COUNTS = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.floats(0.5, 0.999))
def test_the_ends_are_the_rates_that_a_score_test_just_accepts(count: tuple[int, int], level: float) -> None:
    k, n = count
    z = stats.norm.ppf((1 + level) / 2)
    for end in Tally(k, n).interval(level):
        gap = abs(k / n - end) - z * math.sqrt(end * (1 - end) / n)
        assert abs(gap) < 1e-9 or end in (0, 1)


@given(COUNTS)
def test_the_interval_holds_the_rate_and_stays_a_probability(count: tuple[int, int]) -> None:
    tally = Tally(*count)
    low, high = tally.interval()
    assert 0 <= low <= tally.rate <= high <= 1
    assert low < high


def test_known_values() -> None:
    assert Tally(15, 148).interval(0.95) == pytest.approx((0.0624, 0.1605), abs=5e-5)  # Newcombe 1998, table I
    assert Tally(0, 20).interval(0.95) == pytest.approx((0.0, 0.1611), abs=5e-5)  # Newcombe 1998, table I
    assert Tally(3, 4).rate == 0.75
    assert repr(Tally(9, 12)) == "Tally(9/12 = 75.0%)"


def test_what_is_no_tally_is_refused() -> None:
    for k, n in ((0, 0), (-1, 5), (6, 5), (math.nan, 5)):
        with pytest.raises(InputError):
            Tally(k, n)
    for level in (0, 1, 95):
        with pytest.raises(InputError, match="level"):
            Tally(1, 2).interval(level)
