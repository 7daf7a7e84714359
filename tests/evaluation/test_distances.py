"""The figures of distance, against their definitions."""

import math

import numpy as np
import pytest

from ggufkit.evaluation.distances import distance


def test_equal_logits_have_no_distance() -> None:
    logits = [np.random.default_rng(0).standard_normal((3, 7), np.float32)]
    found = distance(logits, logits)
    assert (found.positions, found.nmse, found.top1, found.mean_kl, found.max_kl) == (3, 0, 1, 0, 0)


def test_definitions() -> None:
    x = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]], np.float32)
    y = np.array([[0.0, 2.0, 3.0], [0.0, 2.0, 0.0]], np.float32)
    found = distance([x[:1], x[1:]], [y[:1], y[1:]])
    assert found.nmse == pytest.approx(((y - x) ** 2).sum() / ((x - x.mean()) ** 2).sum())
    assert found.top1 == 0.5
    divergences = []
    for a, b in zip(x.astype(float), y.astype(float), strict=True):
        p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        divergences.append((p * np.log(p / q)).sum())
    assert found.mean_kl == pytest.approx(np.mean(divergences))
    assert found.max_kl == pytest.approx(max(divergences))


def test_what_is_no_number_is_infinitely_far() -> None:
    x = np.ones((2, 3), np.float32)
    found = distance([x], [x * np.float32("nan")])
    assert (found.nmse, found.top1, found.mean_kl) == (math.inf, 0, math.inf)


def test_a_longer_vocabulary_is_cut() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5), np.float32)
    assert distance([x], [np.pad(x, ((0, 0), (0, 3)))]).nmse == 0
