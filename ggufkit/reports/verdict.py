"""Which file to ship: the smallest that keeps the limits, and which files no one should take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ggufkit.evaluation.gates import Figures, Gates, failures
from ggufkit.reports.reading import Model, Run

# KL divergence in nats: below 0.05 the difference is hard to notice in use.
DEFAULT = Gates(max_kld=0.05, max_ppl_increase=0.03)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The model to ship, or None, and why.

    `failed` has what each file that fails does not keep, figure and limit; `dominated` the files that are both larger
    and farther off than another; `doubt` what speaks against the verdict's certainty.
    """

    model: Model | None
    why: str
    limits: Gates
    failed: Mapping[str, Sequence[str]]
    dominated: frozenset[str]
    doubt: str = ""


def verdict(run: Run, limits: Gates | None = None) -> Verdict:
    """Find the smallest file that keeps the limits: those given, else the run's own, else `DEFAULT`."""
    limits = _measured(limits or (run.gates if run.gates.any else DEFAULT), run)
    measured = [model for model in run.models if model.mean_kld is not None]
    worse = dominated(measured)
    if not limits.any:
        tasks = any(model.tasks for model in run.models)
        why = (
            "No limit speaks of what was measured, the questions: --min-task-accuracy gives one."
            if tasks
            else "Nothing that limits speak of was measured: no text, no questions."
        )
        return Verdict(None, why, limits, {}, worse)
    failed = {model.file: found for model in run.models if (found := _failures(model, run, limits))}
    passing = [model for model in run.models if model.file not in failed]
    if not passing:
        nearest = min(measured, key=lambda model: model.mean_kld or 0.0, default=None)
        reason = f"None keeps the limits: {said(limits)}."
        if nearest:
            reason += f" The nearest is {nearest.file} with a KL divergence of {nearest.mean_kld:.4f}."
        return Verdict(None, reason, limits, failed, worse)
    best = min(passing, key=lambda model: (model.bytes, model.mean_kld or 0.0))
    reason = f"The smallest file that keeps the limits: {said(limits)}."
    return Verdict(best, reason, limits, failed, worse, _doubt(best, limits))


def _measured(limits: Gates, run: Run) -> Gates:
    """Leave out the limits on what was not measured: every file would keep them."""
    return replace(limits, **dict.fromkeys(unmeasured(limits, run)))


def unmeasured(limits: Gates, run: Run) -> list[str]:
    """Name the limits, as attributes of `Gates`, on what was not measured."""
    text = _has_read(run)
    tasks = any(model.tasks for model in run.models)
    there = {"max_kld": text, "max_ppl_increase": text, "min_same_top": text, "min_task_accuracy": tasks}
    return [name for name, is_there in there.items() if not is_there and getattr(limits, name) is not None]


def _has_read(run: Run) -> bool:
    """Whether there was a text; a broken model may have read it and given no numbers."""
    return run.base.perplexity is not None or bool(run.raw.get("texts"))


def said(limits: Gates) -> str:
    """Say limits in words."""
    parts = []
    if limits.max_kld is not None:
        parts.append(f"mean KL divergence at most {limits.max_kld:g}")
    if limits.max_ppl_increase is not None:
        parts.append(f"perplexity at most {100 * limits.max_ppl_increase:+g}%")
    if limits.min_same_top is not None:
        parts.append(f"same likeliest token at least {100 * limits.min_same_top:g}%")
    if limits.min_task_accuracy is not None:
        parts.append(f"right answers at least {100 * limits.min_task_accuracy:g}%")
    return ", ".join(parts) or "none"


def _failures(model: Model, run: Run, limits: Gates) -> list[str]:
    figures = Figures(
        model.mean_kld, model.perplexity_ratio, model.same_top, [(task.task, task.share) for task in model.tasks]
    )
    found = list(failures(figures, limits))
    if _has_read(run) and model.mean_kld is None:
        found.append("its KL divergence is no number")
    return found


def _doubt(model: Model, limits: Gates) -> str:
    """Say so when the error of measurement reaches over the limit."""
    if limits.max_kld is None or model.mean_kld is None:
        return ""
    if model.mean_kld + 2 * model.mean_kld_error <= limits.max_kld:
        return ""
    return "Its divergence is within two standard errors of the limit: more text (--chunks) would make it certain."


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
