"""`ggufkit bench`: how fast models run on this machine, with llama-bench's options and formats."""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _model, _options, _output

if TYPE_CHECKING:
    from ggufkit.evaluation.speed import ModelSpeed, PairedSpeed

_FORMATS = ("md", "json", "jsonl", "csv")
_RUN = "What is run"
_HOW = "How it is run (several values with commas: each is measured)"


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=_model.HELP)],
    n_prompt: Annotated[
        str,
        typer.Option("-p", "--n-prompt", metavar="N,...", rich_help_panel=_RUN, help="Tokens of a prompt; 0: none."),
    ] = "512",
    n_gen: Annotated[
        str, typer.Option("-n", "--n-gen", metavar="N,...", rich_help_panel=_RUN, help="Tokens to generate; 0: none.")
    ] = "128",
    prompt_and_gen: Annotated[
        list[str] | None,
        typer.Option("-pg", metavar="P,N", show_default=False, rich_help_panel=_RUN, help="A prompt and a reply."),
    ] = None,
    n_depth: Annotated[
        str,
        typer.Option("-d", "--n-depth", metavar="N,...", rich_help_panel=_RUN, help="Tokens in the context before."),
    ] = "0",
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", min=1, rich_help_panel=_RUN, help="How often each test is run.")
    ] = 5,
    threads: Annotated[
        str | None, typer.Option("-t", "--threads", metavar="N,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option("-b", "--batch-size", metavar="N,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    ubatch_size: Annotated[
        str | None, typer.Option("-ub", "--ubatch-size", metavar="N,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    cache_type_k: Annotated[
        str | None, typer.Option("-ctk", "--cache-type-k", metavar="TYPE,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    cache_type_v: Annotated[
        str | None, typer.Option("-ctv", "--cache-type-v", metavar="TYPE,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    flash_attn: Annotated[
        str | None,
        typer.Option("-fa", "--flash-attn", metavar="on|off|auto,...", show_default=False, rich_help_panel=_HOW),
    ] = None,
    gpu_layers: Annotated[
        str | None, typer.Option("-ngl", "--n-gpu-layers", metavar="N,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    load_mode: Annotated[
        str | None, typer.Option("-lm", "--load-mode", metavar="MODE,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    rpc: Annotated[
        str | None, typer.Option("--rpc", metavar="HOST:PORT,...", show_default=False, rich_help_panel=_HOW)
    ] = None,
    output_format: Annotated[
        str, typer.Option("-o", "--output", metavar="|".join(_FORMATS), help="The format of what goes to stdout.")
    ] = "md",
    start: Annotated[
        bool, typer.Option("--start/--no-start", help="Measure loading, the first token and memory too.")
    ] = True,
    quiet: _options.Quiet = False,
) -> None:
    """Measure prompt and generation speed, loading, the first token and memory.

    The tests, options and columns are llama-bench's. Of several models each is run once in every round, and compared
    with the first one round by round.
    """
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.speed import measure
    from ggufkit.llamacpp.bench import BenchOptions
    from ggufkit.llamacpp.cpu import usable_cores

    if output_format not in _FORMATS:
        raise UsageError(f"-o {output_format!r} is none of {', '.join(_FORMATS)}")
    pairs = [_numbers(text, "-pg") for text in prompt_and_gen or []]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError("-pg takes two numbers, such as -pg 512,128")
    options = BenchOptions(
        models=tuple(_model.resolve(model, kind="gguf", quiet=quiet) for model in models),
        n_prompt=_numbers(n_prompt, "-p"),
        n_gen=_numbers(n_gen, "-n"),
        prompt_and_gen=tuple((pair[0], pair[1]) for pair in pairs),
        n_depth=_numbers(n_depth, "-d"),
        n_threads=_numbers(threads, "-t") or (usable_cores(),),
        n_batch=_numbers(batch_size, "-b"),
        n_ubatch=_numbers(ubatch_size, "-ub"),
        type_k=_words(cache_type_k),
        type_v=_words(cache_type_v),
        flash_attn=_words(flash_attn),
        n_gpu_layers=_numbers(gpu_layers, "-ngl"),
        load_mode=_words(load_mode),
        rpc=_words(rpc),
        repetitions=repetitions,
    )
    with _output.progress_bar(quiet=quiet) as progress:
        found, paired = measure(options, with_start=start, progress=progress)
    _PRINT[output_format](found, paired)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _numbers(text: str | None, flag: str) -> tuple[int, ...]:
    from ggufkit.errors import UsageError

    try:
        return tuple(int(part) for part in _words(text))
    except ValueError:
        raise UsageError(f"{flag} {text!r}: numbers with commas between them are expected") from None


def _rows(models: Sequence["ModelSpeed"]) -> list[dict[str, Any]]:
    """One row for each test: llama-bench's columns, and ours behind them."""
    rows = []
    for model in models:
        started = model.start
        ours = {
            "file_bytes": model.bytes,
            "load_seconds": started.load_seconds if started else None,
            "first_token_seconds": started.first_token_seconds if started else None,
            "first_token_prompt": started.prompt_tokens if started else None,
            "peak_bytes": started.peak_bytes if started else None,
        }
        rows += [{**test.columns, "test": test.test, "median_ts": test.median, **ours} for test in model.tests]
    return rows


def _print_markdown(models: Sequence["ModelSpeed"], paired: Sequence["PairedSpeed"]) -> None:
    print("| model | size | threads | test | t/s | median | range |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for model in models:
        for test in model.tests:
            columns = test.columns
            print(
                f"| {model.path.name} | {_output.size(model.bytes)} | {columns['n_threads']} | {test.test} |"
                f" {columns['avg_ts']:.2f} ± {columns['stddev_ts']:.2f} | {test.median:.2f} |"
                f" {test.low:.2f} - {test.high:.2f} |"
            )
    for model in models:
        if model.start:
            it = model.start
            print(
                f"\n{model.path.name}: loaded in {it.load_seconds:.2f} s, first token {it.first_token_seconds:.2f} s"
                f" after a prompt of {it.prompt_tokens} tokens, {_output.size(it.peak_bytes)} of memory at most"
            )
    for pair in paired:
        print(
            f"\n{pair.second.name} is {pair.ratio:.2f} times as fast as {pair.first.name} at {pair.test}"
            f" ({pair.low:.2f} to {pair.high:.2f} in single rounds)"
        )


def _print_json(models: Sequence["ModelSpeed"], paired: Sequence["PairedSpeed"]) -> None:
    ratios = [
        {"first": str(p.first), "second": str(p.second), "test": p.test, "ratio": p.ratio, "low": p.low, "high": p.high}
        for p in paired
    ]
    _output.print_json({"kind": "speed", "tests": _rows(models), "pairs": ratios})


def _print_lines(models: Sequence["ModelSpeed"], _: Sequence["PairedSpeed"]) -> None:
    for row in _rows(models):
        print(json.dumps(row, ensure_ascii=False))


def _print_csv(models: Sequence["ModelSpeed"], _: Sequence["PairedSpeed"]) -> None:
    rows = _rows(models)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    print(text.getvalue(), end="")


def _cell(value: object) -> object:
    return ";".join(map(str, value)) if isinstance(value, list) else "" if value is None else value


_PRINT = {"md": _print_markdown, "json": _print_json, "jsonl": _print_lines, "csv": _print_csv}
