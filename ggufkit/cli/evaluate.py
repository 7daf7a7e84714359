"""`ggufkit eval`: what quantizing has cost, measured on text against the original."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _baseline_environments, _baselines, _model, _options, _output
from ggufkit.cli._limit_options import LimitChoices
from ggufkit.inference.options import CacheType

if TYPE_CHECKING:
    from ggufkit.evaluation.gates import Gates

_ENGINE = "How the models run"
_BASELINES = "Baselines: other systems that run the checkpoint on this CPU"


def command(
    *,
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
        typer.Option(
            "-f", "--file", metavar="FILE", help="A text to read. May be given several times.", show_default=False
        ),
    ] = None,
    chunk_tokens: Annotated[
        int,
        typer.Option(
            "-c", "--ctx-size", min=16, max=_options.MOST_TOKENS, help="Tokens of a chunk; the second half is scored."
        ),
    ] = 512,
    chunks: Annotated[
        int,
        typer.Option(
            "--chunks", min=-1, max=_options.MOST_TOKENS, help="How many chunks to read of all texts together; -1: all."
        ),
    ] = 32,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="What a model was calibrated or chosen with: warn of passages that a text shares with it.",
        ),
    ] = None,
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
        int,
        typer.Option(
            "-n",
            "--max-tokens",
            min=1,
            max=_options.MOST_TOKENS,
            help="Most tokens of a reply to a prompt or a question.",
        ),
    ] = 128,
    output: _options.Output = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", show_default=False, help="Make a page of the result.")
    ] = None,
    keep_logits: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the base's log-probabilities, as llama-perplexity reads them."),
    ] = None,
    limits: LimitChoices,
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
    list_baselines: Annotated[
        bool,
        typer.Option(
            "--list-baselines", rich_help_panel=_BASELINES, help="Show all, what is installed and its size, and stop."
        ),
    ] = False,
    remove_baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...|all|unused",
            show_default=False,
            rich_help_panel=_BASELINES,
            help="Remove what was installed for baselines (unused: for versions that are not), and stop.",
        ),
    ] = None,
    baseline_patience: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            min=0,
            rich_help_panel=_BASELINES,
            help="End one that gives no sign of life for so long; 0: never.",
        ),
    ] = 120,
    threads: _options.Threads = None,
    gpu_layers: Annotated[
        str,
        typer.Option(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            metavar="N|auto|all",
            rich_help_panel=_ENGINE,
            help="Layers on GPUs.",
        ),
    ] = "auto",
    cache_type_k: Annotated[
        CacheType, typer.Option("-ctk", "--cache-type-k", rich_help_panel=_ENGINE, help="How keys are stored.")
    ] = CacheType.F16,
    cache_type_v: Annotated[
        CacheType, typer.Option("-ctv", "--cache-type-v", rich_help_panel=_ENGINE, help="How values are stored.")
    ] = CacheType.F16,
    rpc: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,...", show_default=False, rich_help_panel=_ENGINE, help="Workers to use."),
    ] = None,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only each model and its KL divergence.")] = False,
) -> None:
    """Measure what quantizing has cost: perplexity and KL divergence against the original, token by token.

    All models read the same chunks of the texts (-f), answer the same prompts (--prompts) and do the same tasks
    (--task). Interrupted, it goes on where it stopped. With -o the result goes to a JSON file, from which
    `ggufkit report` makes a page. A model that fails a limit ends it with exit code 7.
    """
    if setup_baseline:
        _baselines.set_up(setup_baseline, as_json=as_json, quiet=quiet)
        return
    if list_baselines or remove_baseline:
        _baseline_environments.manage(remove_baseline or [], as_json=as_json, quiet=quiet)
        return
    from ggufkit.cli._evaluate_files import check_outputs
    from ggufkit.cli._memory_needs import MemoryNeeds
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.child_process import ask_first
    from ggufkit.evaluation.head_start import head_start
    from ggufkit.evaluation.likelihood.running import Running
    from ggufkit.idle_blas import idle_blas
    from ggufkit.llamacpp.memory import CHILD
    from ggufkit.llamacpp.rpc import endpoints

    if base is None or not (models or against):
        raise UsageError("there is nothing to compare", hint="ggufkit eval BASE QUANT... -f TEXT")
    models = models or []
    gates = limits.gates()
    if gates.any and not models:
        raise UsageError("limits are for models, and none is given", hint="ggufkit eval BASE QUANT... -f TEXT")
    if keep_logits is not None and not texts:
        raise UsageError("--keep-logits keeps what the base says of a text", hint="-f TEXT")
    _check_gates(gates, texts=bool(texts), tasks=bool(tasks))
    running = Running(
        threads=threads,
        gpu_layers=int(gpu_layers) if gpu_layers.isdigit() else gpu_layers,
        cache_type_k=cache_type_k.value,
        cache_type_v=cache_type_v.value,
        rpc_servers=tuple(str(endpoint) for endpoint in endpoints([rpc] if rpc is not None else [])),
    )
    outputs = {"-o": output, "--report": report, "--keep-logits": keep_logits}
    others = [Path(name) for name in (prompts, *_baselines.files_of(against or [])) if name is not None]
    read = [*models, *(texts or ()), *(tasks or ()), *(calibration or ()), *others]
    check_outputs(outputs, [base, *read, *([checkpoint] if checkpoint else [])])
    silent = quiet or as_json
    base = _model.resolve(base, kind="any", quiet=silent)
    models = [_model.resolve(model, kind="gguf", quiet=silent) for model in models]
    systems = _baselines.against_of(against or [], checkpoint, baseline_patience, quiet=silent)
    wants_memory = bool(output or report or as_json)
    memory = MemoryNeeds(ask_first(CHILD))

    def measure_memory() -> None:  # before that process holds anything else
        if wants_memory:
            memory.of([model for model in (base, *models) if not model.is_dir()][:1])

    with ExitStack() as stack:
        progress = stack.enter_context(_output.progress_bar(quiet=silent))
        begun = None
        if texts and not base.is_dir():
            begun = stack.enter_context(head_start(base, texts, running, first=measure_memory))
        else:
            measure_memory()
        with idle_blas():  # the child is at work while we import
            from ggufkit.cli import _evaluate_results
            from ggufkit.evaluation.answers.generations import read_prompts
            from ggufkit.evaluation.answers.tasks import read_task
            from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate

        found = evaluate(
            base,
            models,
            texts or [],
            EvaluationOptions(
                chunk_tokens=chunk_tokens,
                chunks=None if chunks < 0 else chunks,
                running=running,
                keep_logits=keep_logits,
                max_tokens=max_tokens,
                calibration=tuple(calibration or ()),
            ),
            prompts=read_prompts(prompts) if prompts else (),
            tasks=[read_task(path) for path in tasks or []],
            against=systems,
            begun=begun,
            progress=progress,
            note=(lambda text: None) if silent else _output.note,  # noqa: ARG005 - the signature
        )
        needs = memory.of((base, *models)) if wants_memory else ()
    with _output.progress_bar(quiet=silent) as progress:
        speed = _evaluate_results.speed(base, models, running, progress) if bench or systems else []
    written = _evaluate_results.written(found, gates, speed, needs)
    _evaluate_results.publish(written, found, output, report, as_json=as_json, quiet=quiet)
    _evaluate_results.refuse_failures(written)


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
