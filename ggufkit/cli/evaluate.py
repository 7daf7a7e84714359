"""`ggufkit eval`: what quantizing has cost, measured on text against the original."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _model, _options, _output

if TYPE_CHECKING:
    from ggufkit.evaluation.evaluation_results import Evaluation, ModelResult
    from ggufkit.evaluation.gates import Gates

_GATES = "Limits for CI (exit code 7 when a model fails one)"
_ENGINE = "How the models run"


def command(
    base: Annotated[Path, typer.Argument(metavar="BASE", help=f"The original. {_model.HELP} Or a checkpoint folder.")],
    models: Annotated[list[Path], typer.Argument(metavar="QUANT...", help="The models to compare with it.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", metavar="TEXT", help="A text to read; several are domains.", show_default=False),
    ] = None,
    chunk_tokens: Annotated[
        int, typer.Option("-c", "--ctx-size", min=16, help="Tokens of a chunk; the second half is scored.")
    ] = 512,
    chunks: Annotated[
        int, typer.Option("--chunks", min=-1, help="How many chunks to read of all texts together; -1: all.")
    ] = 32,
    output: _options.Output = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", show_default=False, help="Make a page of the result.")
    ] = None,
    keep_logits: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the base's log-probabilities, as llama-perplexity reads them."),
    ] = None,
    max_kld: Annotated[
        float | None, typer.Option(min=0.0, show_default=False, rich_help_panel=_GATES, help="Mean KL divergence.")
    ] = None,
    max_ppl_increase: Annotated[
        str | None,
        typer.Option(metavar="2%|0.02", show_default=False, rich_help_panel=_GATES, help="Increase of perplexity."),
    ] = None,
    min_same_top: Annotated[
        str | None,
        typer.Option(metavar="95%|0.95", show_default=False, rich_help_panel=_GATES, help="Same likeliest token."),
    ] = None,
    threads: _options.Threads = None,
    gpu_layers: Annotated[
        str,
        typer.Option("-ngl", "--n-gpu-layers", metavar="N|auto|all", rich_help_panel=_ENGINE, help="Layers on GPUs."),
    ] = "auto",
    cache_type_k: Annotated[
        str, typer.Option("-ctk", "--cache-type-k", rich_help_panel=_ENGINE, help="Type of the keys' cache.")
    ] = "f16",
    cache_type_v: Annotated[
        str, typer.Option("-ctv", "--cache-type-v", rich_help_panel=_ENGINE, help="Type of the values' cache.")
    ] = "f16",
    rpc: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,...", show_default=False, rich_help_panel=_ENGINE, help="Workers to use."),
    ] = None,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Measure what quantizing has cost: perplexity and KL divergence against the original, token by token.

    All models read the same chunks of the texts. Interrupted, it goes on where it stopped. With -o the result goes to
    a JSON file, from which `ggufkit report` makes a page.
    """
    from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
    from ggufkit.evaluation.gates import Gates, fraction
    from ggufkit.evaluation.likelihood.passes import Running

    gates = Gates(
        max_kld=max_kld,
        max_ppl_increase=None if max_ppl_increase is None else fraction(max_ppl_increase, "--max-ppl-increase"),
        min_same_top=None if min_same_top is None else fraction(min_same_top, "--min-same-top"),
    )
    running = Running(
        threads=threads,
        gpu_layers=int(gpu_layers) if gpu_layers.isdigit() else gpu_layers,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        rpc_servers=tuple(part for part in (rpc or "").split(",") if part),
    )
    options = EvaluationOptions(
        chunk_tokens=chunk_tokens, chunks=None if chunks < 0 else chunks, running=running, keep_logits=keep_logits
    )
    silent = quiet or as_json
    with _output.progress_bar(quiet=silent) as progress:
        found = evaluate(
            _model.resolve(base, kind="any", quiet=silent),
            [_model.resolve(model, kind="gguf", quiet=silent) for model in models],
            texts or [],
            options,
            progress=progress,
            note=(lambda text: None) if silent else _output.note,  # noqa: ARG005 - the signature
        )
    _publish(found, output, report, as_json=as_json, quiet=quiet)
    _refuse_failures(found, gates)


def _publish(found: "Evaluation", output: Path | None, report: Path | None, *, as_json: bool, quiet: bool) -> None:
    from ggufkit import __version__
    from ggufkit.evaluation.evaluation_results import document
    from ggufkit.files import write_atomically
    from ggufkit.llamacpp.pin import pin

    pinned = pin()
    written: dict[str, Any] = document(
        found, version=__version__, build={"commit": pinned.commit, "llama_cpp_python": pinned.version}
    )
    if output is not None:
        write_atomically(output, json.dumps(written, indent=1, ensure_ascii=False).encode())
    if report is not None:
        from ggufkit.reports import render
        from ggufkit.reports.reading import run_of

        write_atomically(report, render([run_of(written, report.stem)]).encode())
    _remember(found)
    if as_json:
        _output.print_json(written)
    elif quiet:
        for model in found.models:
            print(f"{model.facts.path} {model.divergence.mean_kld.value:.6f}" if model.divergence else "")
    else:
        _print_table(found)
        for pair in found.pairs:
            if not pair.difference.is_clear:
                print(f"{pair.first} and {pair.second} cannot be told apart on this text")


def _remember(found: "Evaluation") -> None:
    """Leave the divergences where `ggufkit plan` finds them."""
    from ggufkit.gguf_file.parts import read_parts
    from ggufkit.planning.quality import Quality, remember

    text = ", ".join(domain.name for domain in found.domains)
    results = [
        (
            model.facts.type,
            Quality(
                model.divergence.mean_kld.value,
                model.facts.imatrix,
                measured=True,
                source=text,
                standard_error=model.divergence.mean_kld.standard_error,
                perplexity=model.likelihood.perplexity.value,
                perplexity_error=model.likelihood.perplexity.standard_error,
            ),
        )
        for model in found.models
        if model.divergence
    ]
    if results:
        kinds, qualities = zip(*results, strict=True)
        remember(read_parts(found.models[0].facts.path), text, qualities, kinds)


def _refuse_failures(found: "Evaluation", gates: "Gates") -> None:
    from ggufkit.errors import VerificationError
    from ggufkit.evaluation.gates import failures

    failed = [f"{model.facts.path.name}: {what}" for model in found.models for what in failures(model, gates)]
    if failed:
        raise VerificationError("; ".join(failed), hint="a larger type, or --imatrix, loses less")


def _print_table(found: "Evaluation") -> None:
    width = max(len(model.facts.path.name) for model in (found.base, *found.models))
    heading = ("size", "bits/weight", "perplexity", "change", "KL divergence", "99.9 %", "same top", "RMS Δp")
    columns = (9, 11, 19, 9, 21, 8, 8, 7)
    print(f"{'model':<{width}}", *(f"{text:>{room}}" for text, room in zip(heading, columns, strict=True)))
    for model in (found.base, *found.models):
        cells = zip(_cells(model), columns, strict=False)
        print(f"{model.facts.path.name:<{width}}", *(f"{text:>{room}}" for text, room in cells))


def _cells(model: "ModelResult") -> list[str]:
    perplexity, divergence = model.likelihood.perplexity, model.divergence
    cells = [
        _output.size(model.facts.bytes),
        f"{model.facts.bits_per_weight:.2f}",
        f"{perplexity.value:.4f} ± {perplexity.standard_error:.4f}",
    ]
    if divergence is None:
        return cells
    kld = divergence.mean_kld
    return [
        *cells,
        f"{divergence.perplexity_ratio.value - 1:+.2%}",
        f"{kld.value:.6f} ± {kld.standard_error:.6f}",
        f"{divergence.percentiles[99.9]:.4f}",
        f"{divergence.same_top.value:.2%}",
        f"{divergence.rms_delta_p.value:.2%}",
    ]
