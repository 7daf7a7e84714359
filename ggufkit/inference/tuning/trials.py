"""Finding the faster setting on a noisy machine: successive halving to choose, a paired comparison to be sure.

Every round measures all that are left, one after the other, so that whatever else the machine does meets all of them;
then the slower half goes. The first candidate, the default, always stays. Whoever wins was also lucky, so the choice is
measured anew against the default, in pairs whose order alternates, and counts only when its gain exceeds the noise.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ggufkit.inference.tuning.settings import Settings

SMALLEST_GAIN = 1.02  # below two percent nobody notices, and every machine is noisier than that
_ROUNDS = 3
_FEWEST_PAIRS, _MOST_PAIRS = 5, 9
# Student's t for 99 % on one side, for 4 to 8 degrees of freedom.
_T = {4: 3.747, 5: 3.365, 6: 3.143, 7: 2.998, 8: 2.896}

Measure = Callable[[Sequence[Settings]], Sequence[float]]
"""Measures each of the settings once; returns tokens per second."""


@dataclass(slots=True)
class Trial:
    """What was measured of one setting, in tokens per second."""

    settings: Settings
    speeds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the median speed; 0 when it was not measured."""
        return statistics.median(self.speeds) if self.speeds else 0.0

    def beats(self, other: "Trial", margin: float) -> bool:
        """Tell whether this was faster in every round, and by a margin in the middle."""
        pairs = list(zip(self.speeds, other.speeds, strict=False))
        return bool(pairs) and all(ours > theirs for ours, theirs in pairs) and self.median > margin * other.median


def halve(candidates: Sequence[Settings], measure: Measure, *, has_time: Callable[[], bool]) -> list[Trial]:
    """Measure candidates, of which the first is the default, in rounds; return all that was measured, best first."""
    trials = [Trial(settings) for settings in candidates]
    left = list(trials)
    for _ in range(_ROUNDS):
        if len(left) < 2 or not has_time():
            break
        for trial, speed in zip(left, measure([trial.settings for trial in left]), strict=True):
            trial.speeds.append(speed)
        best = sorted(left, key=lambda trial: -trial.median)[: max(2, -(-len(left) // 2))]
        left = [trial for trial in left if trial in best or trial is trials[0]]
    last = max((len(trial.speeds) for trial in trials), default=0)
    # Those that were sent home early lost to these; one lucky round does not bring them back.
    return sorted(trials, key=lambda trial: (len(trial.speeds) < last, -trial.median))


@dataclass(slots=True)
class Comparison:
    """A choice beside the default: speeds of both, measured in turn, and what follows from them."""

    default: list[float] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Return how many times as fast as the default the choice was, for each pair."""
        return [chosen / default for default, chosen in zip(self.default, self.chosen, strict=True) if default > 0]

    @property
    def gain(self) -> float:
        """Return the median of the ratios; 1 when nothing was measured."""
        return statistics.median(self.ratios) if self.ratios else 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Return between what the geometric mean of the ratios lies, with 99 % on each side."""
        ratios = self.ratios
        if len(ratios) < _FEWEST_PAIRS or min(ratios) <= 0:
            return 0.0, float("inf")
        # Logarithms: twice as fast and half as fast are equally far from as fast.
        logarithms = [math.log(ratio) for ratio in ratios]
        mean = statistics.fmean(logarithms)
        reach = _T.get(len(ratios) - 1, _T[8]) * statistics.stdev(logarithms) / len(ratios) ** 0.5
        return math.exp(mean - reach), math.exp(min(mean + reach, 700.0))

    @property
    def is_faster(self) -> bool:
        """Tell whether the choice is faster by more than the noise, in the middle and in most pairs."""
        low, _ = self.bounds
        wins = sum(ratio > 1 for ratio in self.ratios)
        return low > 1 and self.gain >= SMALLEST_GAIN and wins >= len(self.ratios) - 1

    @property
    def is_slower(self) -> bool:
        """Tell whether the choice is slower by more than the noise."""
        _, high = self.bounds
        return high < 1

    @property
    def is_decided(self) -> bool:
        """Tell whether more pairs would hardly change the verdict."""
        low, high = self.bounds
        return len(self.ratios) >= _FEWEST_PAIRS and (low > SMALLEST_GAIN or high < SMALLEST_GAIN)


def compare(
    default: Settings, chosen: Settings, measures: Sequence[Measure], *, has_time: Callable[[], bool]
) -> list[Comparison]:
    """Measure a choice against the default in pairs, by each of the measures, until all are decided."""
    comparisons = [Comparison() for _ in measures]
    for number in range(_MOST_PAIRS):
        if all(each.is_decided for each in comparisons) or (number >= _FEWEST_PAIRS and not has_time()):
            break
        for comparison, measure in zip(comparisons, measures, strict=True):
            if number % 2:
                [second, first] = measure([chosen, default])
            else:
                [first, second] = measure([default, chosen])
            comparison.default.append(first)
            comparison.chosen.append(second)
    return comparisons
