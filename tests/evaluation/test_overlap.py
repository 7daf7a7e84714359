"""Shared passages of texts: counted as a plain search counts them, and refused above a thousandth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.errors import InputError
from ggufkit.evaluation.overlap import WINDOW, check_disjoint, overlaps, shared_windows

CHANCE = np.random.default_rng(0)


def windows(tokens: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(tokens[start : start + WINDOW].tolist()) for start in range(len(tokens) - WINDOW + 1)]


@given(seed=st.integers(0, 1000), copied=st.integers(0, 90), place=st.integers(0, 200), length=st.integers(0, 300))
def test_the_share_is_that_of_a_plain_search(seed: int, copied: int, place: int, length: int) -> None:
    chance = np.random.default_rng(seed)
    used, kept = chance.integers(0, 3, 300), chance.integers(0, 3, length)  # three tokens only: many near misses
    part = kept[place : place + copied]
    part[:] = used[: len(part)]
    known = set(windows(used))
    found = [window in known for window in windows(kept)]
    assert shared_windows(kept, used) == (sum(found) / len(found) if found else 0.0)


def test_order_counts() -> None:
    tokens = np.arange(WINDOW)
    assert shared_windows(tokens, tokens) == 1
    assert shared_windows(tokens, np.roll(tokens, 1)) == 0
    assert shared_windows(tokens, tokens[::-1].copy()) == 0
    assert shared_windows(np.zeros(40, int), np.zeros(WINDOW - 1, int)) == 0


def test_a_leaked_document_is_refused_by_name() -> None:
    used, kept = CHANCE.integers(0, 30_000, 50_000), CHANCE.integers(0, 30_000, 50_000)
    texts = {"calibration.txt": used.astype(np.int32)}, {"test.txt": kept.astype(np.int32)}
    assert check_disjoint(*texts) == ()
    texts[1]["test.txt"][:60] = used[:60]  # 29 windows: below a thousandth
    (small,) = check_disjoint(*texts)
    assert small.share == pytest.approx(29 / (50_000 - 31))
    texts[1]["test.txt"][1000:1200] = used[7:207]
    with pytest.raises(InputError, match=r"0\.4% of test\.txt is in calibration\.txt too"):
        check_disjoint(*texts)
    assert len(overlaps(*texts)) == 1
