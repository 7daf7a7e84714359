"""`ggufkit report`: results of `ggufkit eval` as one page, or two of them compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _options, _output
from ggufkit.cli._limit_options import LimitChoices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggufkit.evaluation.gates import Gates
    from ggufkit.reports.compare import Change
    from ggufkit.reports.reading import Run


def command(
    *,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.json... [BENCH.json...]",
            help="Results of `ggufkit eval -o RUN.json`, of `ggufkit bench -o json` about the same files, and of"
            " `ggufkit optimize --json`.",
        ),
    ],
    output: _options.Output = None,
    limits: LimitChoices,
    compare: Annotated[
        bool, typer.Option("--compare", help="Of two results, an older and a newer one: show what changed.")
    ] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Make one HTML page of results, complete in itself: which file to ship, all figures, plots, how to repeat it.

    Without -o, run.json becomes run.html beside it. The page loads nothing from anywhere. Without limits, those of the
    run hold; if it had none, --max-kld 0.05 and --max-ppl-increase 3%.
    """
    from ggufkit.errors import UsageError
    from ggufkit.files import check_output, write_atomically
    from ggufkit.reports import read_results, render

    if compare:
        if len(runs) != 2:
            raise UsageError(f"--compare takes two results, not {len(runs)}", hint="ggufkit report --compare OLD NEW")
        if output is not None or limits.gates().any:
            raise UsageError("--compare prints what changed: -o and limits belong to the page of a run")
        _compare(runs, as_json=as_json, quiet=quiet)
        return
    read, allocations = read_results(runs)
    named = read[0].source if read else allocations[0].source
    path = output or next(each for each in runs if each.name == named).with_suffix(".html")
    check_output(path, inputs=runs)
    gates = limits.gates()
    _check_gates(gates, read)
    write_atomically(path, render(read, gates if gates.any else None, allocations).encode())
    if as_json:
        _output.print_json({"output": str(path), "bytes": path.stat().st_size})
    elif quiet:
        print(path)
    else:
        print(f"{path}: {_output.size(path.stat().st_size)}")


def _check_gates(gates: "Gates", runs: "Sequence[Run]") -> None:
    """Refuse limits on what no run has measured. Raises UsageError."""
    from ggufkit.errors import UsageError
    from ggufkit.reports.verdict import unmeasured

    for name in set.intersection(*({*unmeasured(gates, run)} for run in runs)) if runs else ():
        flag = f"--{name.replace('_', '-')}"
        needs = "--task FILE.jsonl" if name == "min_task_accuracy" else "-f TEXT"
        raise UsageError(f"{flag} limits what was not measured", hint=f"ggufkit eval ... {needs} measures it")


_OF_MODELS = ("bytes", "mean_kld", "perplexity", "same_top")


def _compare(runs: list[Path], *, as_json: bool, quiet: bool) -> None:
    from ggufkit.reports import read_run
    from ggufkit.reports.compare import compare

    found = compare(read_run(runs[0]), read_run(runs[1]))
    if as_json:
        changes = [_as_json(change) for change in found.changes]
        _output.print_json({"doubts": list(found.doubts), "base": _as_json(found.base), "changes": changes})
        return
    for doubt in found.doubts:
        _output.warn(f"{doubt}: the figures may not be comparable")
    for change in (*([found.base] if found.base.moved else []), *found.changes):
        if not quiet or change.moved or change.old is None or change.new is None:
            _print_change(change)


def _as_json(change: "Change") -> dict[str, Any]:
    return {
        "model": change.file,
        "old_mean_kld": change.old.mean_kld if change.old else None,
        "new_mean_kld": change.new.mean_kld if change.new else None,
        "change": change.kld_change,
        "clear": change.is_clear,
        **{f"old_{name}": getattr(change.old, name, None) for name in _OF_MODELS},
        **{f"new_{name}": getattr(change.new, name, None) for name in _OF_MODELS},
        "old_tasks": {task.task: task.share for task in change.old.tasks} if change.old else {},
        "new_tasks": {task.task: task.share for task in change.new.tasks} if change.new else {},
        "changed": [{"figure": it.name, "old": it.old, "new": it.new, "clear": it.clear} for it in change.moved],
    }


def _print_change(change: "Change") -> None:
    """Print what became of one model; figures that are the same take one line."""
    if change.old is None or change.new is None:
        print(f"{change.file}: {'new' if change.old is None else 'gone'}")
        return
    moved = change.moved
    if not moved:
        print(f"{change.file}: the same")
        return
    print(f"{change.file}:")
    for it in moved:
        was, now = ("-" if value is None else format(_whole(value, it.form), it.form) for value in (it.old, it.new))
        by = ""
        if it.old is not None and it.new is not None:
            by = f"  {format(_whole(it.new - it.old, it.form), '+' + it.form)}"
        sure = "  (clear)" if it.clear else ""
        print(f"  {it.name:<16} {was:>12} -> {now:>12}{by}{sure}")


def _whole(value: float, form: str) -> float:
    return int(value) if form.endswith("d") else value
