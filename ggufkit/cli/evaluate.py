"""`ggufkit eval`: what quantizing has cost, measured on text against the original."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _baselines, _evaluate_view, _model, _options, _output

if TYPE_CHECKING:
    from ggufkit.evaluation.evaluation_results import Evaluation
    from ggufkit.evaluation.gates import Gates
    from ggufkit.evaluation.likelihood.passes import Running
    from ggufkit.progress import Progress

_GATES = "Limits for CI (exit code 7 when a model fails one)"
_ENGINE = "How the models run"
_BASELINES = "Baselines: other systems that run the checkpoint on this CPU"


def command(
    base: Annotated[
        Path | None,
        typer.Argument(metavar="BASE", show_default=False, help=f"The original. {_model.HELP} Or a checkpoint folder."),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="QUANT...", show_default=False, help="The models to compare with it."),
    ] = None,
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
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure speed, loading and memory too, as `ggufkit bench` does.")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...|all|FILE.json",
            show_default=False,
            rich_help_panel=_BASELINES,
            help="Measure these beside the models; or results that were measured elsewhere.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default=False, rich_help_panel=_BASELINES, help="What they run, if BASE is a file."
        ),
    ] = None,
    setup_baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...|all",
            show_default=False,
            rich_help_panel=_BASELINES,
            help="Install what baselines need, apart from all else, and stop.",
        ),
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
    if setup_baseline:
        _baselines.set_up(setup_baseline, as_json=as_json, quiet=quiet)
        return
    from ggufkit.cli._memory_needs import memory_needs
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.answers.generations import read_prompts
    from ggufkit.evaluation.answers.tasks import read_task
    from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
    from ggufkit.evaluation.gates import Gates, fraction
    from ggufkit.evaluation.likelihood.passes import Running
    from ggufkit.files import check_output
    from ggufkit.llamacpp.rpc import endpoints

    if base is None or not (models or against):
        raise UsageError("there is nothing to compare", hint="ggufkit eval BASE QUANT... -f TEXT")
    models = models or []
    gates = Gates(
        max_kld=max_kld,
        max_ppl_increase=None if max_ppl_increase is None else fraction(max_ppl_increase, "--max-ppl-increase"),
        min_same_top=None if min_same_top is None else fraction(min_same_top, "--min-same-top"),
        min_task_accuracy=None if min_task_accuracy is None else fraction(min_task_accuracy, "--min-task-accuracy"),
    )
    _check_gates(gates, texts=bool(texts), tasks=bool(tasks))
    running = Running(
        threads=threads,
        gpu_layers=int(gpu_layers) if gpu_layers.isdigit() else gpu_layers,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        rpc_servers=tuple(str(endpoint) for endpoint in endpoints([rpc] if rpc is not None else [])),
    )
    options = EvaluationOptions(
        chunk_tokens=chunk_tokens,
        chunks=None if chunks < 0 else chunks,
        running=running,
        keep_logits=keep_logits,
        max_tokens=max_tokens,
    )
    silent = quiet or as_json
    for path in (output, report, keep_logits):
        if path is not None:
            check_output(path, inputs=(base, *models, *(texts or ())))
    base = _model.resolve(base, kind="any", quiet=silent)
    models = [_model.resolve(model, kind="gguf", quiet=silent) for model in models]
    others = _baselines.against_of(against or [], checkpoint, quiet=silent)
    with _output.progress_bar(quiet=silent) as progress:
        found = evaluate(
            base,
            models,
            texts or [],
            options,
            prompts=read_prompts(prompts) if prompts else (),
            tasks=[read_task(path) for path in tasks or []],
            against=others,
            progress=progress,
            note=(lambda text: None) if silent else _output.note,  # noqa: ARG005 - the signature
        )
        speed = _speed(base, models, running, progress) if bench or others else []
    document = _document(found, gates, memory_needs((base, *models)), speed)
    _publish(document, found, output, report, as_json=as_json, quiet=quiet)
    _refuse_failures(document)


def _check_gates(gates: "Gates", *, texts: bool, tasks: bool) -> None:
    """Refuse limits on what is not going to be measured: nothing would ever fail them."""
    from ggufkit.errors import UsageError

    of_texts = {"--max-kld": gates.max_kld, "--max-ppl-increase": gates.max_ppl_increase}
    of_texts["--min-same-top"] = gates.min_same_top
    for flag, limit in of_texts.items():
        if limit is not None and not texts:
            raise UsageError(f"{flag} needs a text to measure it on", hint="-f TEXT")
    if gates.min_task_accuracy is not None and not tasks:
        raise UsageError("--min-task-accuracy needs questions", hint="--task FILE.jsonl")


def _speed(base: Path, models: list[Path], running: "Running", progress: "Progress") -> list[dict[str, Any]]:
    """Measure as `ggufkit bench` does by default."""
    from ggufkit.evaluation.speed import measure, rows
    from ggufkit.llamacpp.bench import BenchOptions
    from ggufkit.llamacpp.cpu import usable_cores

    files = tuple(dict.fromkeys((*([] if base.is_dir() else [base]), *models)))
    if not files:
        return []
    layers = running.gpu_layers
    options = BenchOptions(
        models=files,
        n_prompt=(512,),
        n_gen=(128,),
        n_threads=(running.threads or usable_cores(),),
        type_k=(running.cache_type_k,),
        type_v=(running.cache_type_v,),
        n_gpu_layers=(layers,) if isinstance(layers, int) else (),
        rpc=running.rpc_servers,
    )
    found, _ = measure(options, progress=progress)
    return rows(found)


def _document(
    found: "Evaluation", gates: "Gates", needs: list[dict[str, int] | None], speed: list[dict[str, Any]]
) -> dict[str, Any]:
    from ggufkit import __version__
    from ggufkit.evaluation.evaluation_results import document
    from ggufkit.llamacpp.pin import pin

    pinned = pin()
    return document(
        found,
        version=__version__,
        build={"commit": pinned.commit, "llama_cpp_python": pinned.version},
        command=shlex.join(["ggufkit", *sys.argv[1:]]),
        gates=gates,
        memory=needs,
        speed=speed,
    )


def _publish(
    written: dict[str, Any],
    found: "Evaluation",
    output: Path | None,
    report: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from ggufkit.files import write_atomically

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
        _evaluate_view.show(found)
        _baselines.show(written)


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


def _refuse_failures(document: dict[str, Any]) -> None:
    from ggufkit.errors import VerificationError

    failed = [f"{model['file']}: {what}" for model in document["models"] for what in model["failed"]]
    if failed:
        raise VerificationError("; ".join(failed), hint="a larger type, or --imatrix, loses less")
