"""`ggufkit optimize`: the best file of a size, its types chosen by measuring the model."""

from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _options, _size_options
from ggufkit.cli._size_options import SizeChoices

_TEXTS = "Texts"
_WORK = "How it is done"


def command(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            show_default=False,
            help="A GGUF file in F16, BF16 or F32, a checkpoint folder (converted first), or owner/repo[:QUANT].",
        ),
    ],
    sizes: SizeChoices,
    frontier: Annotated[
        bool,
        typer.Option(
            "--frontier",
            rich_help_panel=_size_options.PANEL,
            help="Show what every size would cost; alone, no file is made.",
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE|FOLDER/", show_default=False, help="Default: beside the source."),
    ] = None,
    text_files: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            metavar="FILE|FOLDER",
            show_default=False,
            rich_help_panel=_TEXTS,
            help="Text, markdown, code, chats as JSONL, or a folder, of the kind that the model will work on. It is cut"
            " into sections, half of which make the importance matrix; the others choose the types, none of them twice."
            " Without, the model writes its own.",
        ),
    ] = None,
    development: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|FOLDER",
            show_default=False,
            rich_help_panel=_TEXTS,
            help="Choose the types with this text, and use -f for the importance matrix only.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=_TEXTS,
            help="An importance matrix that is there already; -f then chooses the types and must be other text.",
        ),
    ] = None,
    chunk_tokens: Annotated[
        int, typer.Option("-c", "--ctx-size", min=64, rich_help_panel=_TEXTS, help="Tokens in a chunk.")
    ] = 512,
    effort: Annotated[
        str,
        typer.Option(
            metavar="fast|normal|thorough",
            rich_help_panel=_WORK,
            help="fast: what kinds of tensors cost elsewhere, no probes. normal: some layers of a kind are probed"
            " together. thorough: each tensor by itself, more text, and corrections in the mix that was chosen.",
        ),
    ] = "normal",
    pool: Annotated[
        str,
        typer.Option(
            metavar="usual|k-quants|TYPE,TYPE...",
            rich_help_panel=_WORK,
            help="The types to choose from. k-quants: without those that are slow on old CPUs.",
        ),
    ] = "usual",
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            rich_help_panel=_WORK,
            help="Then let the rounding errors of each row make up for each other (GPTQ), as the text of the importance"
            " matrix says; kept only where the file gets better on unseen text. Takes about as long again.",
        ),
    ] = False,
    equalize: Annotated[
        bool,
        typer.Option(
            "--equalize/--no-equalize",
            rich_help_panel=_WORK,
            help="Scale channels between the tensors that make them and those that read them, where less is lost so."
            " What the model computes stays the same; adapters (LoRA) of the original do not fit.",
        ),
    ] = True,
    search_scales: Annotated[
        bool,
        typer.Option(
            "--search-scales/--no-search-scales",
            rich_help_panel=_WORK,
            help="Search for scales of blocks that lose less than those of llama-quantize: same types, same size.",
        ),
    ] = True,
    sensitivity: Annotated[
        str,
        typer.Option(
            metavar="probes|fisher",
            rich_help_panel=_WORK,
            help="fisher: read the checkpoint backwards (torch is installed) in place of probes; what that does not"
            " see, such as stacked experts, is probed.",
        ),
    ] = "probes",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            rich_help_panel=_WORK,
            help="What SRC was converted from, if SRC is a file: for --sensitivity fisher, and for --refine, which does"
            " better with it where the model is small.",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="ray://HOST:PORT|ray://auto",
            show_default=False,
            rich_help_panel=_WORK,
            help="Measure probes and candidates on the machines of a Ray cluster, with the same ggufkit and llama.cpp.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            rich_help_panel=_WORK,
            help="Where measurements are kept, so that nothing is measured twice, and scratch copies lie meanwhile."
            " Default: in ggufkit's cache.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", rich_help_panel=_WORK, help="Forget what was measured of this model.")
    ] = False,
    outtype: Annotated[
        str,
        typer.Option(metavar="f16|bf16|f32", rich_help_panel=_WORK, help="What a checkpoint is converted to first."),
    ] = "f16",
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            min=0,
            show_default=False,
            rich_help_panel=_WORK,
            help="Layers held by the GPU.",
        ),
    ] = None,
    threads: _options.Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how long it would take and how much disk, and write no file.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            show_default=False,
            help="Also make a page of it: all sizes beside the presets, where the bits went, what was foretold.",
        ),
    ] = None,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Make the best file of a size: give each tensor the type that it needs.

    Presets such as Q4_K_M give every model the same types in the same places. Here it is measured how much each part of
    this model loses by each type, and the bytes go where they help most. The result is an ordinary GGUF file, never
    larger than what was asked for, and never worse than the preset on the text that was kept aside to compare them.

    An interrupted run goes on where it was; other sizes of the same model need no new measurements.
    """
    from ggufkit.allocation.options import OptimizeOptions
    from ggufkit.cli import _model, _optimize_words, _optimize_work
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.likelihood.passes import Running
    from ggufkit.quantization.options import QuantizeOptions

    targets = sizes.targets()
    if not targets and not frontier:
        raise UsageError(
            "how large is the file to be?",
            hint=f"ggufkit optimize {source} --like Q4_K_M, --target-size 4.5GB, or"
            " --target-bpw 4.6; --frontier shows all sizes",
        )
    running = Running(threads=threads, gpu_layers="auto" if gpu_layers is None else gpu_layers)
    options = OptimizeOptions(
        effort=_optimize_words.effort_named(effort),
        pool=pool,
        chunk_tokens=chunk_tokens,
        quantize=QuantizeOptions(threads=threads, imatrix=imatrix, search_scales=search_scales),
        running=running,
        folder=state,
        refine=refine,
        equalize=equalize,
        restart=restart,
        sensitivity=_optimize_words.sensitivity_named(sensitivity),
        original=checkpoint,
        workers=workers,
    )
    _optimize_work.run(
        _optimize_work.Wish(
            source=_model.resolve(Path(source), quiet=quiet or as_json),
            targets=targets,
            output=output,
            options=options,
            texts=tuple(text_files or ()),
            development=tuple(development or ()),
            between=_optimize_words.outtype_named(outtype),
            frontier=frontier,
            dry_run=dry_run,
            report=report,
            as_json=as_json,
            quiet=quiet,
        )
    )
