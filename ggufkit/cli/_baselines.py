"""The part of `ggufkit eval` about baselines: which to run, setting them up, and the table that all systems share."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _model, _output

if TYPE_CHECKING:
    from ggufkit.evaluation.baselines.results import Against

_HEADING = ("size", "memory", "load", "prompt/s", "reply/s", "perplexity", "KL divergence")


def against_of(asked: Sequence[str], checkpoint: Path | None, minutes: float, *, quiet: bool) -> "Against | None":
    """Read `--against`: names of baselines, and files of results, with commas between them; None where it is absent.

    `minutes` is how long a baseline may give no sign of life, 0: for ever.

    Raises:
        UsageError: `--checkpoint` without it.
        InputError: the checkpoint is not there.
    """
    parts = _parts(asked)
    if not parts:
        if checkpoint is not None:
            from ggufkit.errors import UsageError

            raise UsageError("--checkpoint is what baselines run", hint="--against NAME names them")
        return None
    from ggufkit.evaluation.baselines.catalogue import named
    from ggufkit.evaluation.baselines.results import Against

    names = [part for part in parts if not part.endswith(".json")]
    named(names)
    folder = None if checkpoint is None else _model.resolve(checkpoint, kind="checkpoint", quiet=quiet)
    files = [Path(part) for part in parts if part.endswith(".json")]
    return Against(names, files, folder, patience=60 * minutes or None)


def files_of(asked: Sequence[str]) -> list[str]:
    """Name the files of results that `--against` has."""
    return [part for part in _parts(asked) if part.endswith(".json")]


def _parts(asked: Sequence[str]) -> list[str]:
    return [part.strip() for text in asked for part in text.split(",") if part.strip()]


def set_up(asked: Sequence[str], *, as_json: bool, quiet: bool) -> None:
    """Make the environments of baselines, one after the other.

    Raises:
        UsageError: one is not known.
        MissingDependencyError: packages cannot be had, or do not work here.
        OutputError: the disk is too small.
    """
    from ggufkit.errors import MissingDependencyError
    from ggufkit.evaluation.baselines import environments
    from ggufkit.evaluation.baselines.catalogue import named

    recipes = {it.recipe.name: it.recipe for it in named(_parts(asked))}
    silent = quiet or as_json
    made = []
    failed: dict[str, MissingDependencyError] = {}
    with _output.progress_bar(quiet=silent) as progress:
        for recipe in recipes.values():
            note = (lambda text: None) if silent else _output.note  # noqa: ARG005 - the signature
            try:
                made.append(environments.set_up(recipe, progress=progress, note=note))
            except MissingDependencyError as error:  # the others may be had all the same
                failed[recipe.name] = error
                continue
            if not silent:
                _output.note(_told(made[-1]))
    if as_json:
        rows = [
            {
                "name": it.environment.recipe,
                "python": str(it.environment.python),
                "folder": str(it.folder) if it.folder else None,
                "bytes": it.bytes,
                "was_there": it.was_there,
            }
            for it in made
        ]
        _output.print_json({"environments": rows})
    elif quiet:
        for it in made:
            print(it.environment.python)
    if failed:
        why = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise MissingDependencyError(why, hint=next(iter(failed.values())).hint)


def _told(made: Any) -> str:
    name = made.environment.recipe
    if made.environment.is_ours:
        return f"{name}: this Python has what it needs ({sys.prefix})"
    state = "already there" if made.was_there else "ready"
    return f"{name}: {state}, {made.folder} ({_output.size(made.bytes)})"


def show(document: Mapping[str, Any]) -> None:
    """Print GGUF files and baselines in one table, and why rows are empty."""
    baselines = document["baselines"]
    if not baselines:
        return
    tasks = [task["task"] for task in document["base"]["tasks"]]
    files = [_row_of_file(it, document["bench"], tasks) for it in (document["base"], *document["models"])]
    rows = [["", *_HEADING, *tasks], *files, *(_row(it, tasks) for it in baselines if it["origin"] != "not run")]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    print("\nbeside other systems:")
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        print(f"{row[0]:<{widths[0]}}", *cells, sep="  ")
    for it in baselines:
        if it["origin"] == "not run":
            print(f"{it['name']}: not run: {it['why']}")
    for note in _notes(baselines):
        print(note)


def _notes(baselines: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    for it in baselines:
        if it["origin"] == "elsewhere":
            other = "" if it["same_text"] or "perplexity" not in it else "; of another text, or cut otherwise"
            notes.append(f"{it['name']}: measured elsewhere, on {it['device']} ({it['source']}){other}")
    return notes


def _row_of_file(model: Mapping[str, Any], bench: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    """Take the speeds of a GGUF file from llama-bench's rows, which were measured with the same lengths."""
    tests = [row for row in bench if Path(row["model_filename"]).name == model["file"]]
    prompt = next((row["median_ts"] for row in tests if row["n_prompt"] and not row["n_gen"]), None)
    reply = next((row["median_ts"] for row in tests if row["n_gen"] and not row["n_prompt"]), None)
    peak, load = (next((row[key] for row in tests if row[key]), None) for key in ("peak_bytes", "load_seconds"))
    return [model["file"], *_sizes(model["bytes"], peak, load, prompt, reply), *_figures(model, tasks)]


def _row(it: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    prompt, reply = ((it[name] or {}).get("median") for name in ("prompt", "generation"))
    sizes = _sizes(it["weight_bytes"] or it["disk_bytes"], it["peak_bytes"], it["load_seconds"], prompt, reply)
    return [it["name"], *sizes, *_figures(it, tasks)]


def _sizes(
    size: int | None, peak: int | None, load: float | None, prompt: float | None, reply: float | None
) -> list[str]:
    return [
        "" if size is None else _output.size(size),
        "" if peak is None else _output.size(peak),
        "" if load is None else f"{load:.2f} s",
        "" if prompt is None else f"{prompt:,.1f}",
        "" if reply is None else f"{reply:,.1f}",
    ]


def _figures(it: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    perplexity, kld = it.get("perplexity"), it.get("kl_divergence")
    mark = "" if it.get("same_text", True) else "*"
    shares = {task["task"]: f"{task['accuracy']:.2%}" for task in it["tasks"]}
    return [
        "" if perplexity is None else f"{perplexity['value']:.4f} ± {perplexity['standard_error']:.4f}{mark}",
        "" if kld is None else f"{kld['mean']:.6f} ± {kld['standard_error']:.6f}{mark}",
        *(shares.get(task, "") for task in tasks),
    ]
