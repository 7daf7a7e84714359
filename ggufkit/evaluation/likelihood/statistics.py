"""From figures for every token to what people read: means with their errors, percentiles, paired differences.

Errors and percentiles are those of llama-perplexity (tools/perplexity/perplexity.cpp): the standard error of a mean is
sqrt(variance / (n - 1)), as if tokens were independent. They are not, within a chunk; so differences between models
come with an interval from a bootstrap over chunks (B. Efron, 1979), paired: both models have read the same tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
_CURVE = tuple(float(p) for p in (*range(0, 100, 2), 99, 99.5, 99.9, 100))
_RESAMPLES = 2000
_LEAST_FOR_ERRORS = 10  # tokens; with fewer, llama-perplexity gives no error


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its standard error, in the same unit."""

    value: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a text is to a model. Perplexity is exp(mean negative log-likelihood)."""

    perplexity: Estimate
    tokens: int


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a model is from its base on the same tokens.

    Kullback-Leibler divergences are in nats, of the base's next-token probabilities from the model's. `same_top` is
    the share of tokens at which both find the same one likeliest. `delta_p` is the change of the probability of the
    token that came, as a fraction of 1. `percentiles` and `curve` map percent to nats.
    """

    likelihood: Likelihood
    base: Likelihood
    log_ratio: Estimate  # of the perplexities, ln(model / base)
    mean_kld: Estimate
    percentiles: Mapping[float, float]
    curve: Mapping[float, float]
    median_kld: float
    max_kld: float
    min_kld: float
    same_top: Estimate
    mean_delta_p: Estimate
    rms_delta_p: Estimate
    correlation: float | None  # of the two models' log-likelihoods

    @property
    def perplexity_ratio(self) -> Estimate:
        """The model's perplexity divided by the base's."""
        ratio = float(np.exp(self.log_ratio.value))
        return Estimate(ratio, ratio * self.log_ratio.standard_error)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean KLD of one model minus that of another, in nats, with a 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves no doubt about the sign."""
        return self.low > 0 or self.high < 0


def likelihood(nll: NDArray[np.float32]) -> Likelihood:
    """Summarize negative log-likelihoods, float32 of any shape."""
    mean, error = _mean(nll)
    perplexity = float(np.exp(mean))
    return Likelihood(Estimate(perplexity, perplexity * error), nll.size)


def divergence(scores: NDArray[np.float32]) -> Divergence:
    """Summarize scores, float32 [chunks, scored, 4] or [tokens, 4]: nll, base's nll, KLD, same top."""
    flat = scores.reshape(-1, 4)
    nll, base_nll, kld = flat[:, 0], flat[:, 1], flat[:, 2]
    count = len(flat)
    (mean, error), (base_mean, base_error) = _mean(nll), _mean(base_nll)
    covariance = _covariance(nll, base_nll)
    variance = error**2 + base_error**2 - 2 * covariance
    delta = np.exp(-nll) - np.exp(-base_nll)
    squares = _mean(delta.astype(np.float64) ** 2)
    rms = float(np.sqrt(squares[0]))
    same = float(flat[:, 3].mean(dtype=np.float64))
    ordered = np.sort(kld)
    return Divergence(
        likelihood=likelihood(nll),
        base=likelihood(base_nll),
        log_ratio=Estimate(mean - base_mean, float(np.sqrt(max(0.0, variance)))),
        mean_kld=Estimate(*_mean(kld)),
        percentiles={percent: _percentile(ordered, percent) for percent in _PERCENTILES},
        curve={percent: _percentile(ordered, percent) for percent in _CURVE},
        median_kld=_percentile(ordered, 50.0),
        max_kld=float(ordered[-1]),
        min_kld=float(ordered[0]),
        same_top=Estimate(same, float(np.sqrt(same * (1 - same) / max(1, count - 1)))),
        mean_delta_p=Estimate(*_mean(delta)),
        rms_delta_p=Estimate(rms, 0.5 / rms * squares[1] if rms else 0.0),
        correlation=covariance / (error * base_error) if error and base_error else None,
    )


def paired_difference(
    first: NDArray[np.float32], second: NDArray[np.float32], *, resamples: int = _RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare the KLD of two models, float32 [chunks, scored] each, on the same chunks.

    With one chunk only, tokens are resampled in place of chunks.
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    units = difference.mean(axis=1) if len(difference) > 1 else difference.reshape(-1)
    chance = np.random.default_rng(seed)
    means = np.array([units[chance.integers(0, len(units), len(units))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, (0.025, 0.975))
    return PairedDifference(float(units.mean()), float(low), float(high))


def compare_all(klds: Sequence[NDArray[np.float32]]) -> list[tuple[int, int, PairedDifference]]:
    """Compare every model with every later one, on the same chunks."""
    return [
        (first, second, paired_difference(klds[first], klds[second]))
        for first in range(len(klds))
        for second in range(first + 1, len(klds))
    ]


def _mean(values: NDArray[np.floating]) -> tuple[float, float]:
    count = values.size
    wide = values.astype(np.float64).reshape(-1)
    mean = float(wide.sum() / count)
    # llama-perplexity squares the float32 values; its sums are double.
    squares = float((values.reshape(-1) * values.reshape(-1)).sum(dtype=np.float64) / count)
    variance = squares - mean * mean
    return mean, float(np.sqrt(variance / (count - 1))) if variance > 0 and count > _LEAST_FOR_ERRORS else 0.0


def _covariance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    count = first.size
    if count < _LEAST_FOR_ERRORS:
        return 0.0
    product = float((first * second).sum(dtype=np.float64) / count)
    means = float(first.sum(dtype=np.float64) / count) * float(second.sum(dtype=np.float64) / count)
    return (product - means) / (count - 1)


def _percentile(ordered: NDArray[np.float32], percent: float) -> float:
    """Interpolate as llama-perplexity does, in float32: of a steep tail its rounding shows in the printed digits."""
    place = np.float32(percent / 100) * np.float32(len(ordered) - 1)
    below = int(place)
    part = place - np.float32(below)
    above = min(below + 1, len(ordered) - 1)
    return float((np.float32(1) - part) * ordered[below] + part * ordered[above])
