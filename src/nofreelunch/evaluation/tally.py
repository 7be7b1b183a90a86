"""How many of how many: no accuracy travels without its sample size."""

from dataclasses import dataclass

from scipy import special

from nofreelunch.errors import check_count, check_number


@dataclass(frozen=True)
class Tally:
    """A count of correct answers and the number of questions.

    Args:
        correct: how many were answered correctly; for a model that draws random numbers, the expected number.
        total: how many were asked, at least 1.

    Raises:
        InputError: unless 0 <= correct <= total and total >= 1.

    >>> Tally(9, 12)
    Tally(9/12 = 75.0%)
    >>> print(Tally(9, 12))
    75.0% of 12 (95% interval 46.8% to 91.1%)
    """

    correct: int | float
    total: int

    def __post_init__(self) -> None:
        check_count("total", self.total)
        check_number("correct", self.correct, 0, self.total)

    def __str__(self) -> str:
        return f"{self.rate:.1%} of {self.total} {in_words(*self.interval())}"

    def __repr__(self) -> str:
        return f"Tally({self.correct:.6g}/{self.total} = {self.rate:.1%})"

    @property
    def rate(self) -> float:
        """The fraction answered correctly."""
        return self.correct / self.total

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the rate on all data lies, at this level of confidence: Wilson's score interval (Wilson 1927).

        Its ends are the rates p for which |rate - p| = z sqrt(p (1 - p) / n); it stays in [0, 1] and is not empty at 0
        and 1.

        Raises:
            InputError: if the level is not inside (0, 1).
        """
        check_number("level", level, 0, 1, open_low=True, open_high=True)
        z2 = float(special.ndtri((1 + level) / 2)) ** 2
        n, p = self.total, self.rate
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = (z2 * (p * (1 - p) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
        return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def in_words(low: float, high: float) -> str:
    """An interval as it stands behind a rate, as in "(95% interval 90.1% to 95.8%)"."""
    return f"(95% interval {low:.1%} to {high:.1%})"


def percent(estimate: tuple[float, float, float]) -> str:
    """A rate and its interval in a table or a finding, as in "93.5 % (90.1 to 95.8)"."""
    value, low, high = (100 * number for number in estimate)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"
