"""`ggufkit report`: results of `ggufkit eval` as one page, or two of them compared."""

from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _options, _output


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN.json...", help="Results of `ggufkit eval -o RUN.json`.")],
    output: _options.Output = None,
    max_kld: Annotated[
        float, typer.Option(min=0.0, help="Largest mean KL divergence of a file to be shipped, in nats.")
    ] = 0.05,
    max_ppl_increase: Annotated[
        str, typer.Option(metavar="3%|0.03", help="Largest increase of the perplexity of a file to be shipped.")
    ] = "3%",
    compare: Annotated[
        bool, typer.Option("--compare", help="Of two results, an older and a newer one: show what changed.")
    ] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Make one HTML page of results, complete in itself: which file to ship, all figures, plots, how to repeat it.

    Without -o, run.json becomes run.html beside it. The page loads nothing from anywhere.
    """
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.gates import fraction
    from ggufkit.files import check_output, write_atomically
    from ggufkit.reports import read_run, render
    from ggufkit.reports.verdict import Limits

    read = [read_run(path) for path in runs]
    if compare:
        if len(read) != 2:
            raise UsageError(f"--compare takes two results, not {len(read)}", hint="ggufkit report --compare OLD NEW")
        _compare(runs, as_json=as_json)
        return
    path = output or runs[0].with_suffix(".html")
    check_output(path, inputs=runs)
    limits = Limits(max_kld, fraction(max_ppl_increase, "--max-ppl-increase"))
    write_atomically(path, render(read, limits).encode())
    if as_json:
        _output.print_json({"output": str(path), "bytes": path.stat().st_size})
    elif quiet:
        print(path)
    else:
        print(f"{path}: {_output.size(path.stat().st_size)}")


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
                "old_bytes": change.old.bytes if change.old else None,
                "new_bytes": change.new.bytes if change.new else None,
            }
            for change in found.changes
        ]
        _output.print_json({"doubts": list(found.doubts), "changes": changes})
        return
    for doubt in found.doubts:
        _output.warn(f"{doubt}: the figures may not be comparable")
    width = max(len(change.file) for change in found.changes) if found.changes else 5
    print(f"{'model':<{width}} {'before':>10} {'after':>10} {'change':>10}")
    for change in found.changes:
        before, after = (
            f"{model.mean_kld:.6f}" if model and model.mean_kld is not None else "-"
            for model in (change.old, change.new)
        )
        moved = "" if change.kld_change is None else f"{change.kld_change:+.6f}"
        print(f"{change.file:<{width}} {before:>10} {after:>10} {moved:>10}{' (clear)' if change.is_clear else ''}")
