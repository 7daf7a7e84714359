"""`ggufkit imatrix`: measure which weights of a model matter, for quantizing it well to few bits."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _calibration_text, _model, _options, _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.progress import Progress
    from ggufkit.quantization.imatrix_content import Coverage
    from ggufkit.quantization.make_imatrix import Calibration, ImatrixOptions, ImatrixResult

_EXAMPLE = "for example: ggufkit imatrix model-F16.gguf -f texts/ -o imatrix.gguf"
_SHOWN = 3


def command(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", show_default=False, help="A GGUF model, best in F16 or BF16."),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            metavar="FILE|FOLDER",
            show_default=False,
            help="Text, markdown, code, chats as JSONL, or a folder of them. May be given several times.",
        ),
    ] = None,
    write_own: Annotated[
        bool, typer.Option("--self", help="Let the model write its own text, for those who have none.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", show_default=False, help="Default: MODEL-imatrix.gguf. With .dat: old format."),
    ] = None,
    chunks: Annotated[
        int | None,
        typer.Option(
            "--chunks",
            min=1,
            show_default=False,
            help=f"How much text to read; default: at most {_calibration_text.MOST_CHUNKS} chunks of a text,"
            f" {_calibration_text.OWN_CHUNKS} with --self.",
        ),
    ] = None,
    ctx_size: Annotated[
        int, typer.Option("-c", "--ctx-size", min=1, max=_options.MOST_TOKENS, help="Tokens in a chunk.")
    ] = 512,
    seed: Annotated[
        int, typer.Option("-s", "--seed", min=0, max=2**63 - 1, help="For the order of the passages, and --self.")
    ] = 0,
    in_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--in-file",
            metavar="IMATRIX",
            show_default=False,
            help="Add this matrix of the same model. May be given several times; without a text, they are merged.",
        ),
    ] = None,
    show_statistics: Annotated[
        bool, typer.Option("--show-statistics", help="Show statistics of a matrix, MODEL or --in-file.")
    ] = False,
    save_text: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Keep the text that was read, as a file.")
    ] = None,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Measure the output layer too; mostly better without.")
    ] = False,
    perplexity: Annotated[
        bool, typer.Option("--ppl/--no-ppl", help="Compute the perplexity on the way; without, no progress is shown.")
    ] = True,
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            "-ngl", "--gpu-layers", "--n-gpu-layers", min=0, show_default=False, help="Layers held by the GPU."
        ),
    ] = None,
    threads: _options.Threads = None,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Measure which weights of a model matter, by letting it read.

    The result goes to `ggufkit quantize --imatrix FILE`. It should be made with the unquantized model and with text
    like that which the model will work on; a few hundred kilobytes are enough.
    """
    from ggufkit.errors import InputError, UsageError
    from ggufkit.files import check_output
    from ggufkit.quantization.make_imatrix import ImatrixOptions, make_imatrix

    merge = list(in_files or [])
    if show_statistics:
        _show_statistics(model, merge, as_json=as_json)
        return
    if model is None and not merge:
        raise UsageError("no model is given", hint=_EXAMPLE)
    if model is not None and not (model := _model.resolve(model, kind="gguf", quiet=quiet or as_json)).is_file():
        raise InputError(f"{model}: a checkpoint folder", hint=f"ggufkit convert {model}")
    if model is not None and not files and not write_own and not merge:
        raise UsageError("no text is given to read", hint=f"{_EXAMPLE}; or --self, and the model writes its own")
    if output is None:
        output = _model.beside(model, f"{model.stem}-imatrix.gguf") if model else Path("imatrix.gguf")
    check_output(output, inputs=[*(files or []), *merge, *([model] if model else [])])
    if save_text:
        check_output(save_text, inputs=[*(files or []), *merge, *([model] if model else []), output])
    options = ImatrixOptions(
        ctx_size=ctx_size,
        chunks=chunks,
        threads=threads,
        gpu_layers=gpu_layers,
        process_output=process_output,
        perplexity=perplexity,
    )
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        text = None
        if model is not None and (files or write_own):
            text, options = text_for(
                model, files or [], options, seed=seed, write_own=write_own, quiet=quiet or as_json, progress=progress
            )
            if save_text:
                _save(save_text, text)
        result = make_imatrix(output, model=model, calibration=text, merge=merge, options=options, progress=progress)
    _show(result, as_json=as_json, quiet=quiet)


def text_for(
    model: Path,
    files: Sequence[Path],
    options: "ImatrixOptions",
    *,
    seed: int,
    write_own: bool,
    quiet: bool,
    progress: "Progress",
) -> tuple["Calibration", "ImatrixOptions"]:
    """Prepare the text, and bound how much of it is read.

    Raises:
        As `_calibration_text.from_files` and `by_the_model`.
    """
    from ggufkit.quantization.make_imatrix import Calibration

    parts = []
    if files:
        chunks = options.chunks or _calibration_text.MOST_CHUNKS
        options = dataclasses.replace(options, chunks=chunks)
        parts.append(
            _calibration_text.from_files(files, model, chunks=chunks, ctx_size=options.ctx_size, seed=seed, quiet=quiet)
        )
    if write_own:
        chunks = options.chunks if options.chunks and not files else _calibration_text.OWN_CHUNKS
        parts.append(
            _calibration_text.by_the_model(
                model,
                chunks=chunks,
                ctx_size=options.ctx_size,
                seed=seed,
                threads=options.threads,
                progress=progress,
            )
        )
    if len(parts) == 1:
        return parts[0], options
    # What the model wrote comes first: it is little, and the rest is only read as far as the chunks go.
    joined = Calibration(
        parts[1].text + "\n\n" + parts[0].text,
        f"{parts[0].name}+self",
        special=parts[0].special or parts[1].special,
    )
    return joined, options


def _save(path: Path, text: "Calibration") -> None:
    from ggufkit.files import write_atomically

    write_atomically(path, text.text.encode())


def _show(result: "ImatrixResult", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json(_document(result))
        return
    if quiet:
        print(result.output)
        return
    read = f" from {counted(result.chunks, 'chunk')}" if result.chunks else ""
    known = f", perplexity {result.perplexity:.4f}" if result.perplexity is not None else ""
    print(f"{result.output}: {counted(result.tensors, 'tensor')}{read}{known}, in {result.seconds:.1f} s")
    for line in coverage_lines(result.coverage):
        print(f"  {line}")


def coverage_lines(coverage: "Coverage | None") -> list[str]:
    """Say what the text did not reach."""
    if coverage is None:
        return []
    if coverage.is_complete:
        return [f"all {coverage.tensors} tensors of the blocks were reached"]
    lines = []
    if coverage.missing:
        more = f" and {len(coverage.missing) - _SHOWN} more" if len(coverage.missing) > _SHOWN else ""
        lines.append(
            f"never reached: {len(coverage.missing)} of {counted(coverage.tensors, 'tensor')}:"
            f" {', '.join(coverage.missing[:_SHOWN])}{more}"
        )
    if coverage.experts:
        count = sum(len(numbers) for numbers in coverage.experts.values())
        name, numbers = max(coverage.experts.items(), key=lambda item: len(item[1]))
        lines.append(
            f"never reached: {counted(count, 'expert')} in {counted(len(coverage.experts), 'tensor')}, most in {name}"
            f" ({len(numbers)}): more or other text would reach them"
        )
    return lines


def _document(result: "ImatrixResult") -> dict[str, Any]:
    document = dataclasses.asdict(result)
    document["output"] = str(result.output)
    if result.coverage is not None:
        document["coverage"]["is_complete"] = result.coverage.is_complete
    return document


def _show_statistics(model: Path | None, matrices: Sequence[Path], *, as_json: bool) -> None:
    from ggufkit.errors import UsageError
    from ggufkit.quantization.imatrix_content import read_entries, statistics
    from ggufkit.quantization.make_imatrix import make_imatrix

    given = [*([model] if model else []), *matrices]
    if not given:
        raise UsageError("no matrix is given", hint="ggufkit imatrix --show-statistics imatrix.gguf")
    if len(given) == 1:
        rows = statistics(read_entries(given[0]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            merged = make_imatrix(Path(folder) / "merged.gguf", merge=given)
            rows = statistics(read_entries(merged.output))
    if as_json:
        _output.print_json({"statistics": [dataclasses.asdict(row) for row in rows]})
        return
    print(
        f"{'tensor':<32} {'sum':>12} {'min':>10} {'max':>12} {'mean':>10} {'deviation':>10} {'active':>7}"
        f" {'count':>7} {'entropy':>8} {'of most':>7} {'outliers':>8} {'like before':>11}"
    )
    for row in rows:
        print(
            f"{row.tensor:<32} {row.total:>12.2f} {row.least:>10.4f} {row.greatest:>12.4f} {row.mean:>10.4f}"
            f" {row.deviation:>10.4f} {row.active:>7.1%} {row.count:>7} {row.entropy:>8.4f}"
            f" {row.normalized_entropy:>7.1%} {row.outliers:>8.2%} {row.similarity:>11.4f}"
        )
    print("\nOf the mean squared activations; entropy in bits. Recipes should not be derived from these figures alone.")
