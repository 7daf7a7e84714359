"""Limits that a model must keep, for CI: what failed is said with the figure and the limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ggufkit.errors import UsageError

if TYPE_CHECKING:
    from ggufkit.evaluation.evaluation_results import ModelResult


@dataclass(frozen=True, slots=True)
class Gates:
    """The limits; None: no limit.

    Attributes:
        max_kld: mean KL divergence, nats.
        max_ppl_increase: of the perplexity, as a fraction of the base's.
        min_same_top: share of tokens with the same likeliest token, as a fraction of 1.
        min_task_accuracy: share of right answers, as a fraction of 1.
    """

    max_kld: float | None = None
    max_ppl_increase: float | None = None
    min_same_top: float | None = None
    min_task_accuracy: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        limits = (self.max_kld, self.max_ppl_increase, self.min_same_top, self.min_task_accuracy)
        return any(limit is not None for limit in limits)


def fraction(text: str, flag: str) -> float:
    """Read `2%` or `0.02`.

    Raises:
        UsageError: it is neither.
    """
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no number", hint=f"such as {flag} 2% or {flag} 0.02") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"{flag} {text!r} is negative, or no number")
    if value > 1 and not percent:
        raise UsageError(f"{flag} {text!r} is more than all", hint=f"{flag} {text.strip()}% is what you mean?")
    return value / 100 if percent else value


@dataclass(frozen=True, slots=True)
class Figures:
    """What gates judge of a model; None where it was not measured. `accuracies` are those of its tasks, by name."""

    mean_kld: float | None
    perplexity_ratio: float | None
    same_top: float | None
    accuracies: Sequence[tuple[str, float]] = ()


def failures(figures: Figures, gates: Gates) -> Sequence[str]:
    """List what a model fails, each with the figure and the limit. What was not measured fails nothing."""
    failed = []
    if gates.max_kld is not None and figures.mean_kld is not None and not figures.mean_kld <= gates.max_kld:
        failed.append(f"mean KL divergence {figures.mean_kld:.6f}, at most {gates.max_kld:g}")
    if gates.max_ppl_increase is not None and figures.perplexity_ratio is not None:
        increase = figures.perplexity_ratio - 1
        if not increase <= gates.max_ppl_increase:
            failed.append(f"perplexity {increase:+.2%}, at most {100 * gates.max_ppl_increase:+g}%")
    if gates.min_same_top is not None and figures.same_top is not None and not figures.same_top >= gates.min_same_top:
        failed.append(f"same top token {figures.same_top:.2%}, at least {100 * gates.min_same_top:g}%")
    for name, accuracy in figures.accuracies:
        if gates.min_task_accuracy is not None and not accuracy >= gates.min_task_accuracy:
            failed.append(f"{name}: {accuracy:.1%} right, at least {100 * gates.min_task_accuracy:g}%")
    return failed


def figures_of(model: "ModelResult") -> Figures:
    """Take what gates judge from a result."""
    divergence = model.divergence
    return Figures(
        mean_kld=divergence.mean_kld.value if divergence else None,
        perplexity_ratio=divergence.perplexity_ratio.value if divergence else None,
        same_top=divergence.same_top.value if divergence else None,
        accuracies=[(task.task, task.accuracy.share) for task in model.tasks],
    )
