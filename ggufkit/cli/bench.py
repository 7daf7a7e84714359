"""`ggufkit bench`: how fast models run on this machine, with llama-bench's options and formats."""

import contextlib
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _bench_view, _model, _options, _output

if TYPE_CHECKING:
    from ggufkit.errors import UsageError

_RUN = "What is run"
_HOW = "How it is run (each of several values, as 4,8 or 1-8*2, is measured)"
_OTHER = "llama-bench's other options"


def _values(*names: str, metavar: str = "N,...", text: str = "", panel: str = _HOW) -> Any:
    """Describe an option of llama-bench that takes several values, with commas or by being repeated."""
    return typer.Option(*names, metavar=metavar, help=text or None, show_default=False, rich_help_panel=panel)


def command(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help=_model.HELP, show_default=False)
    ] = None,
    model_files: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", "-hf", "--hf-repo", metavar="MODEL,...", help="The same, in llama-bench's way."),
    ] = None,
    n_prompt: Annotated[
        list[str] | None, _values("-p", "--n-prompt", text="Tokens of a prompt; 0: none. [512]", panel=_RUN)
    ] = None,
    n_gen: Annotated[
        list[str] | None, _values("-n", "--n-gen", text="Tokens to generate; 0: none. [128]", panel=_RUN)
    ] = None,
    prompt_and_gen: Annotated[
        list[str] | None, _values("-pg", metavar="P,N", text="A prompt and a reply.", panel=_RUN)
    ] = None,
    n_depth: Annotated[
        list[str] | None, _values("-d", "--n-depth", text="Tokens in the context before.", panel=_RUN)
    ] = None,
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", min=1, rich_help_panel=_RUN, help="How often each test is run.")
    ] = 5,
    no_warmup: Annotated[
        bool, typer.Option("--no-warmup", rich_help_panel=_RUN, help="No run before those that are measured.")
    ] = False,
    delay: Annotated[
        int | None, typer.Option("--delay", min=0, show_default=False, rich_help_panel=_RUN, help="Seconds in between.")
    ] = None,
    threads: Annotated[list[str] | None, _values("-t", "--threads", text="CPU threads.")] = None,
    batch_size: Annotated[
        list[str] | None, _values("-b", "--batch-size", text="Tokens handed over in one call. [2048]")
    ] = None,
    ubatch_size: Annotated[
        list[str] | None, _values("-ub", "--ubatch-size", text="Tokens computed at once. [512]")
    ] = None,
    cache_type_k: Annotated[
        list[str] | None, _values("-ctk", "--cache-type-k", metavar="TYPE,...", text="How keys are stored. [f16]")
    ] = None,
    cache_type_v: Annotated[
        list[str] | None, _values("-ctv", "--cache-type-v", metavar="TYPE,...", text="How values are stored. [f16]")
    ] = None,
    flash_attn: Annotated[
        list[str] | None, _values("-fa", "--flash-attn", metavar="on|off|auto,...", text="Fused attention. [auto]")
    ] = None,
    gpu_layers: Annotated[
        list[str] | None,
        _values("-ngl", "--gpu-layers", "--n-gpu-layers", text="Layers on GPUs; -1: all. [-1]"),
    ] = None,
    load_mode: Annotated[
        list[str] | None,
        _values(
            "-lm",
            "--load-mode",
            metavar="MODE,...",
            text="How weights come into memory: auto, none, mmap, mlock, mmap+mlock, dio. [auto]",
        ),
    ] = None,
    rpc: Annotated[list[str] | None, _values("-rpc", "--rpc", metavar="HOST:PORT,...", text="Workers to use.")] = None,
    cpu_mask: Annotated[
        list[str] | None,
        _values("-C", "--cpu-mask", metavar="HEX,...", panel=_OTHER, text="Processors to run on, as a mask; 0x0: all."),
    ] = None,
    cpu_strict: Annotated[
        list[str] | None,
        _values("--cpu-strict", metavar="0|1,...", panel=_OTHER, text="Bind each thread to one processor."),
    ] = None,
    poll: Annotated[
        list[str] | None, _values("--poll", panel=_OTHER, text="How busily threads wait for work, 0 to 100. [50]")
    ] = None,
    n_cpu_moe: Annotated[
        list[str] | None,
        _values("-ncmoe", "--n-cpu-moe", panel=_OTHER, text="Keep the experts of the first N layers with the CPU."),
    ] = None,
    split_mode: Annotated[
        list[str] | None,
        _values(
            "-sm",
            "--split-mode",
            metavar="MODE,...",
            panel=_OTHER,
            text="How GPUs share the model: none, layer, row, tensor. [layer]",
        ),
    ] = None,
    main_gpu: Annotated[
        list[str] | None, _values("-mg", "--main-gpu", panel=_OTHER, text="GPU for everything, with -sm none.")
    ] = None,
    no_kv_offload: Annotated[
        list[str] | None,
        _values("-nkvo", "--no-kv-offload", metavar="0|1,...", panel=_OTHER, text="Keep keys and values with the CPU."),
    ] = None,
    devices: Annotated[
        list[str] | None, _values("-dev", "--device", metavar="A/B,...", panel=_OTHER, text="Devices to use.")
    ] = None,
    lazy_mode: Annotated[
        list[str] | None,
        _values(
            "-lzm",
            "--lazy-mode",
            metavar="on|off|auto,...",
            panel=_OTHER,
            text="Read what the architecture marks only when it is needed. [auto]",
        ),
    ] = None,
    embeddings: Annotated[
        list[str] | None,
        _values("-embd", "--embeddings", metavar="0|1,...", panel=_OTHER, text="Compute embeddings, not tokens."),
    ] = None,
    tensor_split: Annotated[
        list[str] | None,
        _values(
            "-ts", "--tensor-split", metavar="A/B,...", panel=_OTHER, text="What part of the model each device gets."
        ),
    ] = None,
    override_tensor: Annotated[
        list[str] | None,
        _values(
            "-ot",
            "--override-tensor",
            metavar="PATTERN=BUFFER;...",
            panel=_OTHER,
            text="Put tensors whose names match elsewhere.",
        ),
    ] = None,
    no_op_offload: Annotated[
        list[str] | None,
        _values(
            "-nopo",
            "--no-op-offload",
            metavar="0|1,...",
            panel=_OTHER,
            text="Let the CPU compute what its weights are with.",
        ),
    ] = None,
    no_host: Annotated[
        list[str] | None,
        _values(
            "--no-host", metavar="0|1,...", panel=_OTHER, text="Use no buffers of the host, so that repacking can."
        ),
    ] = None,
    repack: Annotated[
        list[str] | None, _values("--repack", metavar="0|1,...", panel=_OTHER, text="Repack weights for the CPU. [1]")
    ] = None,
    fit_target: Annotated[
        list[str] | None,
        _values(
            "-fitt",
            "--fit-target",
            metavar="MiB,...",
            panel=_OTHER,
            text="Fit the model into devices, leaving so much free.",
        ),
    ] = None,
    fit_ctx: Annotated[
        list[str] | None,
        _values("-fitc", "--fit-ctx", panel=_OTHER, text="Context that must fit at least, with -fitt. [4096]"),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--prio", min=-1, max=3, show_default=False, rich_help_panel=_OTHER, help="Priority of the process."
        ),
    ] = None,
    numa: Annotated[
        str | None,
        typer.Option("--numa", metavar="MODE", rich_help_panel=_OTHER, help="distribute, isolate or numactl."),
    ] = None,
    output_format: Annotated[
        str, typer.Option("-o", "--output", metavar="md|json|jsonl|csv", help="The format of what goes to stdout.")
    ] = "md",
    output_errors: Annotated[
        str | None,
        typer.Option(
            "-oe",
            "--output-err",
            metavar="md|json|jsonl|csv",
            show_default=False,
            help="The same for stderr, besides. [none]",
        ),
    ] = None,
    as_json: _options.Json = False,
    start: Annotated[
        bool, typer.Option("--start/--no-start", help="Measure loading, the first token and memory too.")
    ] = True,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Measure prompt and generation speed, loading, the first token and memory.

    The tests, options and columns are llama-bench's. Of several models each is run once in every round, and compared
    with the first one round by round. `-o json` makes what `ggufkit report RUN.json BENCH.json` draws.
    """
    from ggufkit.cli._bench_values import numbers, pairs, switches, words
    from ggufkit.cli._usage_errors import none_of
    from ggufkit.errors import LlamaCppError, UsageError
    from ggufkit.evaluation.speed import measure
    from ggufkit.llamacpp.bench import BenchOptions
    from ggufkit.llamacpp.cpu import usable_cores

    if as_json:
        if output_format not in {"md", "json"}:
            raise UsageError(f"--json and -o {output_format} do not go together")
        output_format = "json"
    if output_format not in _bench_view.PRINT:
        raise none_of(output_format, list(_bench_view.PRINT), "-o")
    if output_errors is not None and output_errors not in _bench_view.PRINT:
        raise none_of(output_errors, list(_bench_view.PRINT), "-oe")
    named = [*(models or []), *(name for text in model_files or () for name in _models_of(text))]
    if not named:
        raise UsageError("no model is named", hint="ggufkit bench MODEL.gguf")
    options = BenchOptions(
        models=tuple(_model.resolve(model, kind="gguf", quiet=quiet) for model in named),
        n_prompt=numbers(n_prompt, "-p") or (512,),
        n_gen=numbers(n_gen, "-n") or (128,),
        prompt_and_gen=pairs(prompt_and_gen, "-pg"),
        n_depth=numbers(n_depth, "-d"),
        n_threads=numbers(threads, "-t", least=1) or (usable_cores(),),
        n_batch=numbers(batch_size, "-b", least=1),
        n_ubatch=numbers(ubatch_size, "-ub", least=1),
        type_k=words(cache_type_k),
        type_v=words(cache_type_v),
        flash_attn=words(flash_attn),
        n_gpu_layers=numbers(gpu_layers, "-ngl", least=-1),
        load_mode=words(load_mode),
        rpc=words(rpc),
        repetitions=repetitions,
        warmup=not no_warmup,
        delay=delay,
        cpu_mask=words(cpu_mask),
        cpu_strict=switches(cpu_strict, "--cpu-strict"),
        poll=numbers(poll, "--poll"),
        n_cpu_moe=numbers(n_cpu_moe, "-ncmoe"),
        split_mode=words(split_mode),
        main_gpu=numbers(main_gpu, "-mg"),
        no_kv_offload=switches(no_kv_offload, "-nkvo"),
        devices=words(devices),
        lazy_mode=words(lazy_mode),
        embeddings=switches(embeddings, "-embd"),
        tensor_split=words(tensor_split),
        override_tensor=words(override_tensor),
        no_op_offload=switches(no_op_offload, "-nopo"),
        no_host=switches(no_host, "--no-host"),
        repack=switches(repack, "--repack"),
        fit_target=numbers(fit_target, "-fitt"),
        fit_ctx=numbers(fit_ctx, "-fitc"),
        priority=priority,
        numa=numa,
    )
    if not (any(options.n_prompt) or any(options.n_gen) or options.prompt_and_gen):
        raise UsageError("-p 0 -n 0 leaves nothing to measure", hint="such as -p 512 -n 128")
    try:
        with _output.progress_bar(quiet=quiet) as progress:
            found, paired = measure(options, with_start=start, progress=progress)
    except LlamaCppError as error:
        raise refused_value(error) or error from error
    given = {each.name for each in fields(options) if getattr(options, each.name) not in ((), None)}
    _bench_view.PRINT[output_format](found, paired, given)
    if output_errors is not None:
        with contextlib.redirect_stdout(sys.stderr):
            _bench_view.PRINT[output_errors](found, paired, given)


def _models_of(text: str) -> list[str]:
    """Split at commas, but for a file that has one in its name."""
    return [text] if Path(text).exists() else [part for part in text.split(",") if part]


def refused_value(error: Exception) -> "UsageError | None":
    """Make a mistake in the command line of what llama-bench says of a value that it does not take."""
    from ggufkit.errors import UsageError

    said = re.search(r"invalid parameter for argument: (\S+) .*? \1 ([^\s)]+)", str(error))
    return UsageError(f"{said[1]}: llama-bench takes no {said[2]!r}") if said else None
