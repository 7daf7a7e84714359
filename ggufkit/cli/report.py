"""`ggufkit report`: results of `ggufkit eval` as one page, or two of them compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _options, _output
from ggufkit.cli._limit_options import LimitChoices

if TYPE_CHECKING:
    from ggufkit.reports.compare import Change


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
        _compare(runs, as_json=as_json)
        return
    read, allocations = read_results(runs)
    named = read[0].source if read else allocations[0].source
    path = output or next(each for each in runs if each.name == named).with_suffix(".html")
    check_output(path, inputs=runs)
    gates = limits.gates()
    write_atomically(path, render(read, gates if gates.any else None, allocations).encode())
    if as_json:
        _output.print_json({"output": str(path), "bytes": path.stat().st_size})
    elif quiet:
        print(path)
    else:
        print(f"{path}: {_output.size(path.stat().st_size)}")


_FIGURES: tuple[tuple[str, str, str], ...] = (  # of a model: attribute, heading, format
    ("bytes", "size", ",d"),
    ("mean_kld", "KL divergence", ".6f"),
    ("perplexity", "perplexity", ".4f"),
    ("same_top", "same top", ".2%"),
)


def _compare(runs: list[Path], *, as_json: bool) -> None:
    from ggufkit.reports import read_run
    from ggufkit.reports.compare import compare

    found = compare(read_run(runs[0]), read_run(runs[1]))
    if as_json:
        changes = [
            {
                "model": change.file,
                "old_mean_kld": change.old.mean_kld if change.old else None,
                "new_mean_kld": change.new.mean_kld if change.new else None,
                "change": change.kld_change,
                "clear": change.is_clear,
                **{f"old_{name}": getattr(change.old, name, None) for name, _, _ in _FIGURES},
                **{f"new_{name}": getattr(change.new, name, None) for name, _, _ in _FIGURES},
                "old_tasks": {task.task: task.share for task in change.old.tasks} if change.old else {},
                "new_tasks": {task.task: task.share for task in change.new.tasks} if change.new else {},
            }
            for change in found.changes
        ]
        _output.print_json({"doubts": list(found.doubts), "changes": changes})
        return
    for doubt in found.doubts:
        _output.warn(f"{doubt}: the figures may not be comparable")
    for change in found.changes:
        _print_change(change)


def _print_change(change: "Change") -> None:
    """Print what became of one model; figures that are the same take one line."""
    if change.old is None or change.new is None:
        print(f"{change.file}: {'new' if change.old is None else 'gone'}")
        return
    rows = [(heading, getattr(change.old, name), getattr(change.new, name), form) for name, heading, form in _FIGURES]
    tasks = {task.task: task.share for task in change.new.tasks}
    rows += [(task.task, task.share, tasks[task.task], ".2%") for task in change.old.tasks if task.task in tasks]
    moved = [row for row in rows if row[1] != row[2]]
    if not moved:
        print(f"{change.file}: the same")
        return
    print(f"{change.file}:")
    for heading, before, after, form in moved:
        was, now = ("-" if value is None else format(value, form) for value in (before, after))
        by = "" if before is None or after is None else f"  {format(after - before, '+' + form)}"
        sure = "  (clear)" if heading == "KL divergence" and change.is_clear else ""
        print(f"  {heading:<16} {was:>12} -> {now:>12}{by}{sure}")
