"""Which file to ship: the smallest that keeps the limits, and which files no one should take."""

from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.reports.reading import Model, Run


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file must keep. KL divergence in nats: below 0.05 the difference is hard to notice in use."""

    max_kld: float = 0.05
    max_ppl_increase: float = 0.03


@dataclass(frozen=True, slots=True)
class Verdict:
    """The model to ship, or None; why, in a sentence; and those that are both larger and worse than another."""

    model: Model | None
    why: str
    dominated: frozenset[str]


def verdict(run: Run, limits: Limits) -> Verdict:
    """Find the smallest file that keeps the limits."""
    measured = [model for model in run.models if model.mean_kld is not None]
    passing = [model for model in measured if passes(model, limits)]
    worse = dominated(measured)
    said = f"mean KL divergence at most {limits.max_kld:g}, perplexity at most {limits.max_ppl_increase:+.1%}"
    if not passing:
        nearest = min(measured, key=lambda model: model.mean_kld or 0.0, default=None)
        reason = f"None keeps the limits ({said})."
        if nearest:
            reason += f" The nearest is {nearest.file} with a KL divergence of {nearest.mean_kld:.4f}."
        return Verdict(None, reason, worse)
    best = min(passing, key=lambda model: model.bytes)
    return Verdict(best, f"The smallest file that keeps the limits: {said}.", worse)


def passes(model: Model, limits: Limits) -> bool:
    """Whether a model keeps the limits; what is not known does not."""
    if model.mean_kld is None or model.perplexity_ratio is None:
        return False
    return model.mean_kld <= limits.max_kld and model.perplexity_ratio - 1 <= limits.max_ppl_increase


def dominated(models: Sequence[Model]) -> frozenset[str]:
    """Name the files for which another one is at most as large and at most as far off, and better in one of both."""
    return frozenset(
        one.file
        for one in models
        for other in models
        if other.bytes <= one.bytes
        and (other.mean_kld or 0.0) <= (one.mean_kld or 0.0)
        and (other.bytes < one.bytes or (other.mean_kld or 0.0) < (one.mean_kld or 0.0))
    )
