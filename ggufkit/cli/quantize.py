"""`ggufkit quantize`: a GGUF model, or a checkpoint folder, to a smaller GGUF."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import (
    _auto_imatrix,
    _model,
    _options,
    _output,
    _quantize_arguments,
    _quantize_recipe,
    _quantize_report,
    _quantize_work,
    _size_options,
)
from ggufkit.cli._size_options import SizeChoices
from ggufkit.cli._tensor_type_options import TensorTypeChoices

if TYPE_CHECKING:
    from ggufkit.quantization.types import QuantizationType

_MATRIX = "Importance matrix"
_ENGINE = "How it is done"
_RARE = "Rarely needed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SizeChoices(SizeChoices):
    """In place of a type."""

    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE[,TYPE...]",
            show_default=False,
            rich_help_panel=_size_options.PANEL,
            help="In place of TYPE: as large as that, with types chosen by measuring the model. -f and --imatrix are as"
            " in `ggufkit optimize`, whose defaults these three have.",
        ),
    ] = None


def command(
    *,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE[,TYPE...] SRC",
            show_default=False,
            autocompletion=_quantize_arguments.complete,
            help="The types to make, such as Q4_K_M, and a GGUF file, a checkpoint folder or owner/repo[:QUANT];"
            " in either order.",
        ),
    ] = None,
    output: Annotated[
        str | None,  # a path would lose the slash at its end
        typer.Option("-o", "--output", metavar="FILE|FOLDER/", help="A file, or a folder (for several types)."),
    ] = None,
    sizes: _SizeChoices,
    effort: Annotated[
        str | None,
        typer.Option(
            metavar="fast|normal|thorough",
            show_default=False,
            rich_help_panel=_size_options.PANEL,
            help="How much is measured.",
        ),
    ] = None,
    imatrix: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|auto",
            rich_help_panel=_MATRIX,
            help="Which weights matter, from `ggufkit imatrix`. auto: make one if a type gains from it.",
        ),
    ] = None,
    text_files: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            metavar="FILE|FOLDER",
            show_default=False,
            rich_help_panel=_MATRIX,
            help="For --imatrix auto: text, chats or code to make it with; without, the model writes its own.",
        ),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            rich_help_panel=_MATRIX,
            help="Use it only for tensors with this in their name. May be given several times.",
        ),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            rich_help_panel=_MATRIX,
            help="Do not use it for tensors with this in their name. May be given several times.",
        ),
    ] = None,
    one_tensor: TensorTypeChoices,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize",
            rich_help_panel=_RARE,
            help="Accept a source that is quantized already, or says so; it loses more.",
        ),
    ] = False,
    prune_layers: Annotated[
        str | None,
        typer.Option(metavar="L0,L1-L2", rich_help_panel=_RARE, help="Leave out these layers, counted from 0."),
    ] = None,
    search_scales: Annotated[
        bool,
        typer.Option(
            "--search-scales",
            help="Search for scales that lose less than those of llama-quantize: same types, same size. With --like and"
            " its kin always.",
        ),
    ] = False,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", rich_help_panel=_RARE, help="Write as many files as the source has.")
    ] = False,
    max_buffer_size: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            show_default=False,
            rich_help_panel=_RARE,
            help="Rows of one tensor that llama-quantize holds in memory; the direct engine holds little anyway.",
        ),
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TYPE:VALUE",
            show_default=False,
            rich_help_panel=_RARE,
            help="Set metadata; the type is int, float, bool or str. May be given several times.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse if any tensor would get another type than the recipe wants.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Of several types, make those anew that an earlier run has finished.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            metavar="auto|binary|direct",
            rich_help_panel=_ENGINE,
            help="binary: llama-quantize. direct: libggml in this process, the source read once for all types, no file"
            " in between. Both write the same bytes; auto takes direct for checkpoints.",
        ),
    ] = "auto",
    outtype: Annotated[
        str | None,
        typer.Option(
            metavar="f16|bf16|f32",
            rich_help_panel=_ENGINE,
            help="The type of a checkpoint's weights between conversion and quantization. [f16]",
        ),
    ] = None,
    keep_f16: Annotated[
        bool,
        typer.Option("--keep-f16", rich_help_panel=_ENGINE, help="Write the converted checkpoint too, as a GGUF file."),
    ] = False,
    threads: _options.Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes and types, and write nothing.")] = False,
    list_types: Annotated[bool, typer.Option("--list", help="List all types and leave.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Quantize a model: make it several times smaller for a little loss.

    SRC is a GGUF file in F16, BF16 or F32, or a checkpoint folder, which is converted on the way. Without -o,
    model-F16.gguf becomes model-Q4_K_M.gguf beside it, and a checkpoint a file in the current folder. Of several
    types, those that an interrupted run had finished are verified and kept.
    """
    from ggufkit.errors import UsageError
    from ggufkit.quantization.offered import offered_types
    from ggufkit.quantization.options import QuantizeOptions, check_options

    if list_types:
        offers, asked = offered_types()
        _quantize_report.show_types(offers, asked=asked, as_json=as_json)
        return
    if sizes.like or sizes.target_size or sizes.target_bpw or effort:
        from ggufkit.cli import _optimize_work

        only_presets = {
            "--allow-requantize": allow_requantize,
            "--prune-layers": prune_layers,
            "--keep-split": keep_split,
            "--override-kv": override_kv,
            "--max-buffer-size": max_buffer_size,
            "--keep-f16": keep_f16,
            "--strict": strict,
            "--again": again,
            "--engine": engine != "auto",
        }
        _optimize_work.instead_of_types(
            arguments or [],
            targets=sizes.targets(),
            refused=[*one_tensor.given(), *(flag for flag, given in only_presets.items() if given)],
            effort=effort or "normal",
            options=QuantizeOptions(
                threads=threads,
                imatrix=Path(imatrix) if imatrix and imatrix != _auto_imatrix.AUTO else None,
                include_weights=tuple(include_weights or ()),
                exclude_weights=tuple(exclude_weights or ()),
                search_scales=True,
            ),
            texts=tuple(text_files or ()),
            output=output,
            between=outtype or "f16",
            dry_run=dry_run,
            as_json=as_json,
            quiet=quiet,
        )
        return
    kinds, source = _quantize_arguments.sort_arguments(arguments or [], recipe=one_tensor.recipe)
    options = QuantizeOptions(
        threads=threads,
        imatrix=Path(imatrix) if imatrix and imatrix != _auto_imatrix.AUTO else None,
        include_weights=tuple(include_weights or ()),
        exclude_weights=tuple(exclude_weights or ()),
        allow_requantize=allow_requantize,
        **one_tensor.options(),
        prune_layers=_quantize_arguments.layers(prune_layers) if prune_layers else (),
        keep_split=keep_split,
        search_scales=search_scales,
        max_buffer_size=max_buffer_size,
        overrides=tuple(_quantize_arguments.override(text) for text in override_kv or []),
    )
    if imatrix != _auto_imatrix.AUTO:
        check_options(options)
        if text_files:
            raise UsageError("-f is the text for --imatrix auto", hint="ggufkit imatrix makes a matrix from a text")
    if source is None:
        source = _quantize_arguments.only_source()
        if not quiet:
            _output.note(f"quantizing {source}, the only unquantized model in this folder")
    source = _model.resolve(source, quiet=quiet or as_json)
    between = _quantize_work.type_between(source, outtype, keep_converted=keep_f16)
    if one_tensor.recipe:
        kinds, options, output = _quantize_recipe.taken(source, one_tensor.recipe, options, output, between)
    jobs = _quantize_arguments.output_paths(source, kinds, output)
    in_folder = len(jobs) > 1 or _quantize_arguments.names_folder(output)
    silent = quiet or as_json
    if imatrix == _auto_imatrix.AUTO:
        with _output_folder(jobs, wanted=in_folder), _output.progress_bar(quiet=silent) as progress:
            matrix = _auto_imatrix.matrix_for(
                source, jobs, text_files or [], threads=threads, dry_run=dry_run, quiet=silent, progress=progress
            )
        options = dataclasses.replace(options, imatrix=matrix)
        check_options(options)
    how = _quantize_work.How(_quantize_work.engine_named(engine), between, keep_f16, strict, again)
    if dry_run:
        plans = _quantize_work.plans_of(source, jobs, options, how)
        converted = _quantize_work.converted_path(source, jobs, how)
        _quantize_report.show_plans(source, jobs, plans, converted=converted, as_json=as_json, quiet=quiet)
        return
    with _output_folder(jobs, wanted=in_folder), _output.progress_bar(quiet=silent) as progress:
        results = _quantize_work.results_of(source, jobs, options, how, progress)
    _quantize_report.show_results(source, results, as_json=as_json, quiet=quiet)


@contextlib.contextmanager
def _output_folder(jobs: Sequence[tuple["QuantizationType", Path]], *, wanted: bool) -> Iterator[None]:
    """Make the folder that is meant where there is none; it does not stay if nothing comes to lie in it."""
    folder = jobs[0][1].parent
    made = wanted and not folder.exists()
    if made:
        with contextlib.suppress(OSError):  # the check of the outputs has better words for it
            folder.mkdir(parents=True)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
