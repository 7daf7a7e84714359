"""Means, errors and intervals: against the textbook, and honest about what they do not know."""

import numpy as np
import pytest

from ggufkit.evaluation.likelihood.statistics import compare_all, divergence, likelihood, paired_difference


def test_perplexity_and_its_error():
    nll = np.random.default_rng(0).gamma(2, 1, 4000).astype(np.float32)
    found = likelihood(nll)
    assert found.tokens == 4000
    assert found.perplexity.value == pytest.approx(np.exp(nll.mean()), rel=1e-5)
    assert found.perplexity.standard_error == pytest.approx(
        np.exp(nll.mean()) * nll.std() / np.sqrt(len(nll) - 1), rel=1e-3
    )


def test_a_model_compared_with_itself():
    nll = np.random.default_rng(1).gamma(2, 1, 500).astype(np.float32)
    scores = np.stack([nll, nll, np.zeros_like(nll), np.ones_like(nll)], axis=1)
    found = divergence(scores)
    assert found.mean_kld.value == found.max_kld == found.log_ratio.value == found.rms_delta_p.value == 0
    assert found.perplexity_ratio.value == 1
    assert found.same_top.value == 1
    assert found.correlation == pytest.approx(1)


def test_percentiles_lie_between_the_values():
    scores = np.zeros((101, 4), np.float32)
    scores[:, 2] = np.arange(101)
    found = divergence(scores)
    assert [found.percentiles[p] for p in (0.1, 10, 50, 99, 99.9)] == pytest.approx([0.1, 10, 50, 99, 99.9], abs=1e-4)
    assert found.median_kld == 50


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Chunks differ much, models little: paired, the small difference is seen all the same."""
    chance = np.random.default_rng(2)
    held = 0
    for trial in range(100):
        chunks = chance.gamma(1, 1, (30, 1)) * chance.gamma(2, 0.05, (30, 20))
        better = (chunks * 0.9).astype(np.float32)
        noise = chance.normal(0, 0.02, (30, 1))
        found = paired_difference((chunks + noise).astype(np.float32), better, resamples=400, seed=trial)
        held += found.low <= 0.1 * 0.1 <= found.high
        assert found.low <= found.difference <= found.high
    assert 82 <= held <= 100


def test_a_difference_of_nothing_is_not_clear():
    same = np.random.default_rng(3).gamma(2, 1, (8, 10)).astype(np.float32)
    [(first, second, found)] = compare_all([same, same])
    assert (first, second) == (0, 1)
    assert (found.difference, found.low, found.high, found.is_clear) == (0, 0, 0, False)
    assert paired_difference(same + 1, same).is_clear
    assert paired_difference(same[:1] + 1, same[:1]).is_clear
