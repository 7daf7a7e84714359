"""What tuning found, for people: a table of all that was measured, a plot of each question, and the verdict."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ggufkit.inference.tuning.result import Stage, TuneResult
    from ggufkit.inference.tuning.settings import Settings
    from ggufkit.inference.tuning.trials import Comparison

_FLAGS = {
    "threads": "-t",
    "threads_batch": "-tb",
    "micro_batch_size": "-ub",
    "flash_attention": "-fa",
    "cache_type_k": "-ctk",
    "cache_type_v": "-ctv",
    "load_mode": "-lm",
}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def options(settings: dict[str, Any]) -> str:
    """Write settings as the options that would set them."""
    return " ".join(f"{_FLAGS[name]} {value}" for name, value in settings.items())


def table(result: "TuneResult") -> "Table":
    """List every trial: tokens per second, how far apart its measurements were, and how it compares."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("question", "setting"):
        shown.add_column(heading)
    for heading in ("tokens/s", "spread", "times", "to start"):
        shown.add_column(heading, justify="right")
    for stage in result.stages:
        base = next(trial.median for trial in stage.trials if trial.settings == stage.start)
        for number, trial in enumerate(sorted(stage.trials, key=lambda each: _order(each.settings, stage))):
            spread = (max(trial.speeds) - min(trial.speeds)) / trial.median if trial.median else 0.0
            shown.add_row(
                f"{stage.name} ({stage.workload})" if not number else "",
                _label(trial.settings, stage),
                f"{trial.median:.2f}" if trial.median else "refused" if trial.speeds else "-",
                f"{spread:.0%}",
                str(len(trial.speeds)),
                f"{trial.median / base - 1:+.1%}" if base else "",
            )
        shown.add_section()
    return shown


def plots(result: "TuneResult", width: int) -> Iterator[str]:
    """Yield the lines of a bar chart for each question with more than two answers."""
    for stage in result.stages:
        if len(stage.trials) < 2:
            continue
        labels = {id(trial): _label(trial.settings, stage) for trial in stage.trials}
        room = max(10, min(60, width - max(map(len, labels.values())) - 14))
        most = max(trial.median for trial in stage.trials) or 1.0
        yield f"{stage.name}, {stage.workload} (tokens per second)"
        for trial in sorted(stage.trials, key=lambda each: _order(each.settings, stage)):
            label = labels[id(trial)].rjust(max(map(len, labels.values())))
            yield f"  {label} {_bar(trial.median / most, room)} {trial.median:.2f}"
        yield ""


def verdict(result: "TuneResult") -> Iterator[str]:
    """Yield what was decided, and what it was worth."""
    if not result.settings:
        yield "the default settings are as fast as anything that was tried: " + options(
            {"threads": result.default.threads, "threads_batch": result.default.threads_batch}
        )
        if result.compared:
            tried = options(result.compared.changed_from(result.default))
            yield f"({tried} looked faster, but a second measurement beside the default did not bear it out)"
        return
    yield f"faster here: {options(result.settings)}"
    for name, comparison in (("generating", result.generating), ("reading prompts", result.reading)):
        if line := _worth(comparison):
            yield f"  {name}: {line}"


def _worth(comparison: "Comparison") -> str:
    if not comparison.ratios:
        return ""
    low, high = comparison.bounds
    return (
        f"{comparison.gain:.2f} times the default, measured {len(comparison.ratios)} times in turns "
        f"(99 % between {low:.2f} and {high:.2f})"
    )


def _order(settings: "Settings", stage: "Stage") -> tuple[Any, ...]:
    return tuple(value if isinstance(value, int) else str(value) for value in _changing(settings, stage).values())


def _label(settings: "Settings", stage: "Stage") -> str:
    return options(_changing(settings, stage)) + (" (start)" if settings == stage.start else "")


def _changing(settings: "Settings", stage: "Stage") -> dict[str, Any]:
    """Return the settings that differ between the trials of a stage."""
    names = {name for trial in stage.trials for name in trial.settings.changed_from(stage.start)}
    return {name: getattr(settings, name) for name in _FLAGS if name in names}


def _bar(share: float, width: int) -> str:
    whole, part = divmod(round(max(0.0, share) * width * 8), 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(width)
