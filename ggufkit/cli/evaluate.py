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
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="short|long|FILE",
            show_default=False,
            help="Answer prompts side by side: a set of ours, lines of text, or JSONL as for `generate --batch`.",
        ),
    ] = None,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(
            "--task",
            metavar="FILE.jsonl",
            show_default=False,
            help="Questions: prompt and answer, or prompt, choices and answer.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, help="Most tokens of a reply to a prompt or a question.")
    ] = 128,
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
    min_task_accuracy: Annotated[
        str | None,
        typer.Option(metavar="90%|0.9", show_default=False, rich_help_panel=_GATES, help="Right answers of each task."),
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

    All models read the same chunks of the texts (-f), answer the same prompts (--prompts) and do the same tasks
    (--task). Interrupted, it goes on where it stopped. With -o the result goes to a JSON file, from which
    `ggufkit report` makes a page.
    """
    from ggufkit.evaluation.answers.generations import read_prompts
    from ggufkit.evaluation.answers.tasks import read_task
    from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
    from ggufkit.evaluation.gates import Gates, fraction
    from ggufkit.evaluation.likelihood.passes import Running

    gates = Gates(
        max_kld=max_kld,
        max_ppl_increase=None if max_ppl_increase is None else fraction(max_ppl_increase, "--max-ppl-increase"),
        min_same_top=None if min_same_top is None else fraction(min_same_top, "--min-same-top"),
        min_task_accuracy=None if min_task_accuracy is None else fraction(min_task_accuracy, "--min-task-accuracy"),
    )
    running = Running(
        threads=threads,
        gpu_layers=int(gpu_layers) if gpu_layers.isdigit() else gpu_layers,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        rpc_servers=tuple(part for part in (rpc or "").split(",") if part),
    )
    options = EvaluationOptions(
        chunk_tokens=chunk_tokens,
        chunks=None if chunks < 0 else chunks,
        running=running,
        keep_logits=keep_logits,
        max_tokens=max_tokens,
    )
    silent = quiet or as_json
    with _output.progress_bar(quiet=silent) as progress:
        found = evaluate(
            _model.resolve(base, kind="any", quiet=silent),
            [_model.resolve(model, kind="gguf", quiet=silent) for model in models],
            texts or [],
            options,
            prompts=read_prompts(prompts) if prompts else (),
            tasks=[read_task(path) for path in tasks or []],
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
        _print_tasks(found)
        _print_generations(found)
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
        if model.divergence and model.likelihood
    ]
    if results:
        kinds, qualities = zip(*results, strict=True)
        remember(read_parts(found.models[0].facts.path), text, qualities, kinds)


def _refuse_failures(found: "Evaluation", gates: "Gates") -> None:
    from ggufkit.errors import VerificationError
    from ggufkit.evaluation.gates import failures

    failed = [
        f"{model.facts.path.name}: {what}"
        for model in found.models
        for what in failures(model, gates, {task.task: task.accuracy.share for task in model.tasks})
    ]
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


def _print_tasks(found: "Evaluation") -> None:
    for number, task in enumerate(found.base.tasks):
        print(f"\n{task.task}: {task.accuracy.questions} questions")
        for model in (found.base, *found.models):
            it = model.tasks[number]
            interval = f"{it.accuracy.share:7.2%} ({it.accuracy.low:.1%} to {it.accuracy.high:.1%})"
            paired = "" if it.p_value is None else f", {it.lost} lost and {it.gained} gained (p {it.p_value:.3g})"
            print(f"  {model.facts.path.name}: {interval}{paired}")


def _print_generations(found: "Evaluation") -> None:
    if not found.generations:
        return
    print(f"\nreplies to {len(found.generations)} prompts, as far as they are the base's:")
    for number, model in enumerate(found.models):
        agreements = [it.replies[number][1] for it in found.generations]
        tokens = sum(it.tokens for it in agreements) / len(agreements)
        same = sum(it.same for it in agreements)
        print(f"  {model.facts.path.name}: {tokens:.1f} tokens on average, {same} of {len(agreements)} to the end")


def _cells(model: "ModelResult") -> list[str]:
    read, divergence = model.likelihood, model.divergence
    cells = [_output.size(model.facts.bytes), f"{model.facts.bits_per_weight:.2f}"]
    if read is not None:
        cells.append(f"{read.perplexity.value:.4f} ± {read.perplexity.standard_error:.4f}")
    if divergence is not None:
        kld = divergence.mean_kld
        cells += [
            f"{divergence.perplexity_ratio.value - 1:+.2%}",
            f"{kld.value:.6f} ± {kld.standard_error:.6f}",
            f"{divergence.percentiles[99.9]:.4f}",
            f"{divergence.same_top.value:.2%}",
            f"{divergence.rms_delta_p.value:.2%}",
        ]
    return cells
