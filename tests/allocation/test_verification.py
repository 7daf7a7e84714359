"""Which of the measured candidates is shipped."""

import pytest

from ggufkit.allocation.ledger import Measured
from ggufkit.allocation.verification import Candidate, Verified, best_of

BUDGET = 1000


def one(name: str, *chunks: float, size: int = BUDGET, tail: float = 1.0, preset: bool = False) -> Verified:
    measured = Measured(sum(chunks) / len(chunks), chunks, 0.0, tail=tail, same_top=0.9)
    return Verified(Candidate(name, {}, size, 0.0, 0.0, is_preset=preset), measured)


PRESET = one("preset", 0.10, 0.12, 0.11, 0.13, preset=True)


def test_the_lowest_mean_that_is_surely_below_the_presets() -> None:
    good, better = one("good", 0.07, 0.09, 0.08, 0.10), one("better", 0.05, 0.06, 0.05, 0.07)
    assert best_of([PRESET, good, better], BUDGET) is better


def test_a_mean_that_one_chunk_decides_does_not_beat_the_preset() -> None:
    lucky = one("lucky", 0.01, 0.13, 0.12, 0.14)
    assert lucky.measured.kld < PRESET.measured.kld
    assert best_of([PRESET, lucky], BUDGET) is PRESET


def test_worse_tails_are_not_shipped() -> None:
    spiky = one("spiky", 0.05, 0.06, 0.05, 0.07, tail=1.03)
    assert best_of([PRESET, spiky], BUDGET) is PRESET


def test_a_file_that_leaves_much_of_the_budget_is_the_last_resort() -> None:
    best, large = one("small", 0.01, 0.02, 0.01, 0.02, size=900), one("large", 0.05, 0.06, 0.05, 0.07)
    assert best_of([PRESET, best, large], 995) is large
    assert best_of([best], 995) is best


def test_a_small_preset_gives_way_to_what_is_probably_better_but_to_nothing_worse() -> None:
    preset = one("preset", 0.10, 0.12, 0.11, 0.13, size=900, preset=True)
    probably, worse = one("probably", 0.01, 0.13, 0.12, 0.14), one("worse", 0.2, 0.2, 0.2, 0.2)
    assert best_of([preset, probably, worse], 995) is probably
    assert best_of([preset, worse], 995) is preset


@pytest.mark.parametrize(("ours", "theirs"), [(0.1, 0.2), (0.2, 0.1)])
def test_of_a_single_chunk_the_mean_decides(ours: float, theirs: float) -> None:
    found = best_of([one("chosen", ours), one("preset", theirs, preset=True)], BUDGET)
    assert found.measured.kld == min(ours, theirs)
